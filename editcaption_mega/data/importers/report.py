"""What became of the rows of an import, counted, and whether they make a set."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from editcaption_mega.data.shards.writer import REJECTED_NAME, WARNINGS_NAME

_LONGEST_REASON = 1000  # characters that a kind is looked for in


@dataclass
class ImportReport:
    """What became of the rows. `reasons` counts rejections by the kind of their cause, `warnings` those of accepted
    pairs, `categories` accepted pairs; `warned` is how many pairs have a warning."""

    accepted: int = 0
    rejected: int = 0
    warned: int = 0
    re_encoded: int = 0
    shards: int = 0
    fingerprint: str = ""
    reasons: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)

    @property
    def rejected_share(self) -> float:
        rows = self.accepted + self.rejected
        return self.rejected / rows if rows else 0.0

    def refusal(self, folder: Path, strict: bool, most_rejected: float) -> str | None:
        """Why no set is to be written, in one sentence; None if one is."""
        if not self.accepted and not self.rejected:
            return "the input holds no rows, so no set was written"
        rejected = f"{self.rejected} row(s) rejected: {_most(self.reasons)} (each is in {folder / REJECTED_NAME})"
        if not self.accepted:
            rows = f"none of the {self.rejected} rows was accepted, so no set was written"
            return f"{rows}: {_most(self.reasons)} (each is in {folder / REJECTED_NAME})"
        if self.rejected_share > most_rejected:
            return (
                f"{self.rejected_share:.1%} of the rows were rejected, more than {most_rejected:.1%}, so no set was "
                f"written: {rejected}"
            )
        if strict and (self.rejected or self.warned):
            parts = [rejected] if self.rejected else []
            if self.warned:
                kinds = _most(self.warnings)
                parts.append(f"{self.warned} pair(s) with warnings: {kinds} (each is in {folder / WARNINGS_NAME})")
            return f"not every row is free of remarks, so no set was written: {'; '.join(parts)}"
        return None


def kind_of(reason: str) -> str:
    """A reason without what is particular to its row: sizes, what stands in brackets, quoted paths, ids and texts."""
    reason = _without_brackets(reason[:_LONGEST_REASON])
    reason = re.sub(r"\b\d+ x \d+\b|\b\d+ pixels are\b", "image", reason, count=1)
    return re.sub(r"'[^']*[/.][^']*'|(?<=id )'[^']*'", "...", reason)[:300]


def _without_brackets(text: str) -> str:
    """The text without what stands in round brackets, brackets within them included."""
    outside, depth = "", 0
    for part in re.split(r"(\s*\(|\))", text):
        if part.endswith("("):
            depth += 1
        elif part == ")" and depth:
            depth -= 1
        elif not depth:
            outside += part
    return outside.rstrip()


def _most(counts: Counter[str]) -> str:
    return "; ".join(f"{count} x {kind}" for kind, count in counts.most_common(3))
