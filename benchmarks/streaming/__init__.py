"""What `streams` does a second beside Quix Streams and Faust, on the same input and broker."""
