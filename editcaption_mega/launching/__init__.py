"""How a job is started on whatever is there, and what is done when it ends: behind launch/*.sh.

    python -m editcaption_mega.launching.start SCRIPT [--dry-run] CONFIG [key=value ...]

Nothing here needs more than Python 3.9 itself: the machine that runs a batch script may have no environment of ours,
because the ranks have theirs in a container.
"""
