"""Layers of our own whose parts lie on several ranks: linear layers, and the experts."""
