"""One rank's step, executed without values."""
