"""Finished pairs in the forms that others read, with their licenses, provenance and a data card."""
