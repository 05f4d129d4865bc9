"""What the demonstrations (`tools/demo.py`, `tools/curation_demo.py`) share, and the stages of the second one."""
