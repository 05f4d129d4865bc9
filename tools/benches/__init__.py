"""What tools/bench.py measures, one suite a file."""
