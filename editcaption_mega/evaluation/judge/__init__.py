"""Judges: models asked with the paper's prompts, rules of the synthetic world, and whether a judge can be believed."""
