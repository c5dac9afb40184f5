"""The command line: `python -m app`, also installed as `profiles`. Reads arguments and prints; decides nothing."""
