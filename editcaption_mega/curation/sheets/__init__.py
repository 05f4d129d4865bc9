"""Pages of pictures that somebody looks through once: the pairs that are there twice, and a sample of a set."""
