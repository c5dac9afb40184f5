"""Orders of food, with the names of those who ordered, counted: see README.md."""
