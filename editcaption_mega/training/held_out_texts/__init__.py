"""Texts for a few held-out pairs at each evaluation, by the weights that train."""

from .sampler import sampling

__all__ = ["sampling"]
