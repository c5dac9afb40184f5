"""Complete little projects on `streams` alone. Each has a README, data, and tests of what its README shows."""
