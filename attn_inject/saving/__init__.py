"""A patched model becomes a file, and comes back: `checkpoint` does both, `exported` writes for others to run."""
