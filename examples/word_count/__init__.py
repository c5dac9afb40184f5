"""Words counted on several instances, each of which knows all counts: see README.md."""
