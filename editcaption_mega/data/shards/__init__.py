"""Shards on disk: their index, writer, reader and checks."""
