"""A model's server that a job starts itself, on its own machine, and asks."""
