"""How the paper's data divides over the categories of edits (section 4.1), and how a set does."""

from collections.abc import Mapping

QUOTA = {"semantic": 0.25, "stylistic": 0.25, "structural": 0.5}

_FEWEST = 4  # pairs that can have these shares
_AS_THE_PAPER = 0.95  # a set of which the paper's shares leave as much is good as it is


def quota_lines(categories: Mapping[str, int]) -> list[str]:
    """One line per category: pairs, share, and the paper's share; and, where a set has other shares and pairs of each
    category, how many pairs the paper's shares leave and how they are drawn. `categories` counts the pairs."""
    total = max(1, sum(categories.values()))
    lines = []
    for name, share in QUOTA.items():
        pairs = categories.get(name, 0)
        lines.append(f"{name}: {pairs:,} pairs, {pairs / total:.1%} (paper: {share:.0%})")
    scarcest = min(QUOTA, key=lambda name: categories.get(name, 0) / QUOTA[name])
    most = int(categories.get(scarcest, 0) / QUOTA[scarcest])
    if _FEWEST <= most < _AS_THE_PAPER * total:
        shares = ",".join(f"{name}={100 * share:.0f}" for name, share in QUOTA.items())
        lines.append(
            f"in the paper's shares {most:,} pairs at most, as {scarcest} ones are scarce: editcaption curate filter "
            f"--quotas {shares} draws them by --seed into a new folder"
        )
    return lines
