"""What the server costs, as ratios to a bare relay: `python -m tests.bench`."""
