"""An instruction for every pair, from a model."""
