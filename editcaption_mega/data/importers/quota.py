"""How the paper's data divides over the categories of edits (section 4.1), and how a set does."""

from collections.abc import Mapping

QUOTA = {"semantic": 0.25, "stylistic": 0.25, "structural": 0.5}


def quota_lines(categories: Mapping[str, int]) -> list[str]:
    """One line per category: pairs, share, and the paper's share. `categories` counts the pairs of a set."""
    total = max(1, sum(categories.values()))
    lines = []
    for name, share in QUOTA.items():
        pairs = categories.get(name, 0)
        lines.append(f"{name}: {pairs:,} pairs, {pairs / total:.1%} (paper: {share:.0%})")
    return lines
