"""How fast the service is, measured on the machine at hand: `python -m benchmarks` (or `make bench`).

Nothing in here is a unit test, and nothing here decides whether a change is right. Start at `__main__.py`.
"""
