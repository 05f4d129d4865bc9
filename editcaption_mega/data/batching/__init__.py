"""Samples to batches: the order, token ids and patches, packing, and the stream of steps."""
