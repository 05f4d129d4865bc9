"""Texts: the prompt, the one way to tokens, and what a text may not be."""
