"""A web server's log, counted by host and by the minute while it is written: see README.md."""
