"""What the linter says of an instruction, and the rules it goes by."""

from dataclasses import dataclass

# Rule -> what breaks it, and where the paper speaks of it (table 5's row, or a listing).
RULES = {
    "direction": "opposite directions for one thing (table 5, row 4)",
    "mirror": "left and right do not change places with the mirrored pair's instruction (table 5, row 4)",
    "contradiction": "something is kept and changed, or changed to what it is (table 5, row 7)",
    "replace": "a removal and an addition at one place, which is a replacement (table 5, rows 3 and 7)",
    "leakage": "only someone who sees the target can follow it (table 5, row 6)",
    "duplicate": "the same is asked twice (table 5, row 7)",
    "measure": "an amount that no one can check in the pictures (table 5, row 2)",
    "vague": "words that leave open what is wanted (listing 3)",
    "bare_addition": "an addition that says neither where nor of what look (table 5, row 3)",
}


@dataclass(frozen=True)
class Finding:
    """One fault of an instruction. span: [start, end) in characters of the text; hint: what to write instead."""

    rule: str  # of RULES
    span: tuple[int, int]
    message: str
    hint: str
