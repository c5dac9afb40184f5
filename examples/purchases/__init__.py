"""Purchases with the names of their products, requests with the e-mail of their user: see README.md."""
