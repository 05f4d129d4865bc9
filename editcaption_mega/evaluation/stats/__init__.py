"""Intervals and tests: what a difference of means is worth."""
