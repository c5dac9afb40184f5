"""What the nodes of a topology do with records: pure functions of records and of the stores that they are given."""
