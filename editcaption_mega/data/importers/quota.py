"""How the paper's data divides over the categories of edits (section 4.1), and how a set does."""

from collections.abc import Mapping

QUOTA = {"semantic": 0.25, "stylistic": 0.25, "structural": 0.5}


def quota_lines(categories: Mapping[str, int]) -> list[str]:
    """One line per category: pairs, share, and the paper's share; and one that says how many pairs the paper's shares
    leave, and how they are drawn. `categories` counts the pairs of a set."""
    total = max(1, sum(categories.values()))
    lines = []
    for name, share in QUOTA.items():
        pairs = categories.get(name, 0)
        lines.append(f"{name}: {pairs:,} pairs, {pairs / total:.1%} (paper: {share:.0%})")
    scarcest = min(QUOTA, key=lambda name: categories.get(name, 0) / QUOTA[name])
    most = int(categories.get(scarcest, 0) / QUOTA[scarcest])
    if most < total:
        shares = ",".join(f"{name}={100 * share:.0f}" for name, share in QUOTA.items())
        lines.append(
            f"in the paper's shares {most:,} pairs at most, as {scarcest} ones are scarce: editcaption curate filter "
            f"--quotas {shares} draws them by --seed into a new folder"
        )
    return lines
