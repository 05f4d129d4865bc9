"""The parts of `tools/gpu_check.py`: what is right on a GPU, and how fast. Each works at a small size on a CPU too."""
