"""The paper's rubric as pure functions: scores are computed here, never read from a model.

Source: EditCaption (arXiv 2604.08213), eq. 4, listings 1 to 3, tables 7 to 9. Where the paper contradicts itself the
choice is said beside the function.
"""

from editcaption_mega.records import Judgement
from editcaption_mega.settings.evaluation import CompletenessTable

from .lexicon import forbidden_terms

WEIGHTS = (0.4, 0.4, 0.2)  # accuracy, completeness, clarity (eq. 4)

# Listing 2: coverage of at least .. scores ..; it has no row for 0 < R < 20, which scores as R = 0 here.
LISTING_2 = ((1.0, 5.0), (0.75, 4.5), (0.6, 4.0), (0.5, 3.0), (0.2, 2.0))
# The other reading of the missing row: any hit at all scores as R = 20.
LISTING_2_ANY_HIT = (*LISTING_2, (1e-6, 2.0))
# Table 8's own thresholds, for comparison: the prompt that the judge runs is listing 2.
TABLE_8 = ((0.9, 5.0), (0.7, 4.0), (0.5, 3.0), (0.3, 2.0))
COMPLETENESS_TABLES: dict[CompletenessTable, tuple[tuple[float, float], ...]] = {
    "listing2": LISTING_2,
    "listing2_any_hit": LISTING_2_ANY_HIT,
    "table8": TABLE_8,
}
SECONDARY_BONUS = 0.5
CEILINGS = (5.0, 3.0, 2.5, 2.0)  # of clarity, by the number of forbidden terms (listing 3); 3 and more alike
# Listing 3: more words than this with fewer points of information than this cost clarity (it does not say how much).
MOST_WORDS, FEWEST_POINTS, VERBOSITY_COST = 150, 5, 0.5


def weighted_score(accuracy: float, completeness: float, clarity: float) -> float:
    """S = 0.4 accuracy + 0.4 completeness + 0.2 clarity, each 1 .. 5 (eq. 4). ValueError for a score out of range."""
    for name, value in (("accuracy", accuracy), ("completeness", completeness), ("clarity", clarity)):
        if not 1 <= value <= 5:
            raise ValueError(f"{name}={value} must lie in 1 .. 5")
    return WEIGHTS[0] * accuracy + WEIGHTS[1] * completeness + WEIGHTS[2] * clarity


def weighted(judgement: Judgement) -> float | None:
    """The weighted score of a judgement; None while one of its dimensions is unscored."""
    return None if judgement.unscored else weighted_score(**judgement.scores)


def accuracy_score(
    hits: float,
    total: int,
    *,
    fabricated: int = 0,
    major_errors: int = 0,
    minor_errors: int = 0,
    unrelated: bool = False,
) -> int:
    """Accuracy 1 .. 5: the smallest of what errors, inventions and coverage allow (listing 1, table 7).

    hits of total primary changes are mentioned. An error on something that is in both pictures and no primary change is
    minor (table 7, score 4); an object or operation that is in neither is fabricated. A missing degree ("deep red" ->
    "red") is no error. unrelated: nothing in the text is about these pictures."""
    coverage = _coverage(hits, total)
    if unrelated:
        return 1
    score = 5 if coverage >= 0.5 else 4 if coverage >= 0.3 else 3
    if minor_errors:
        score = min(score, 4)
    if major_errors:
        score = min(score, 3 if major_errors == 1 else 2)
    if fabricated:
        score = min(score, 2)
    return score


def completeness_score(
    hits: float, total: int, secondary_hits: int = 0, table: CompletenessTable = "listing2"
) -> float:
    """Completeness 1 .. 5 from how many of the primary changes are mentioned (listing 2).

    A mention counts with wrong attributes too; a reversed operation (add for remove) does not. secondary_hits add 0.5
    in all when coverage is below 100 %, up to 5."""
    coverage = _coverage(hits, total)
    if secondary_hits < 0:
        raise ValueError(f"secondary_hits={secondary_hits} must be 0 or more")
    if table not in COMPLETENESS_TABLES:
        raise ValueError(f"table is {table!r}, expected one of {', '.join(COMPLETENESS_TABLES)}")
    score = next((points for least, points in COMPLETENESS_TABLES[table] if coverage >= least - 1e-9), 1.0)
    bonus = SECONDARY_BONUS if secondary_hits and coverage < 1 else 0.0
    return min(5.0, score + bonus)


def clarity_score(judge_score: float, forbidden: int, *, words: int = 0, points: int | None = None) -> float:
    """Clarity 1 .. 5: what the judge gives, at most the ceiling of `forbidden` terms; a long text of few points of
    information costs half a point (listing 3; points None: not counted, no cost)."""
    score = min(judge_score, ceiling(forbidden))
    if points is not None and words > MOST_WORDS and points < FEWEST_POINTS:
        score -= VERBOSITY_COST
    return max(1.0, score)


def ceiling(forbidden: int) -> float:
    """The highest clarity with so many forbidden terms: 5, 3, 2.5, 2 (listing 3)."""
    return CEILINGS[min(forbidden, len(CEILINGS) - 1)]


def clarity_ceiling(text: str) -> float:
    """The highest clarity that the forbidden terms of the text allow."""
    return ceiling(len(forbidden_terms(text)))


def _coverage(hits: float, total: int) -> float:
    if total < 1:
        raise ValueError(f"total={total} must be at least 1: a pair without primary changes cannot be scored")
    if not 0 <= hits <= total:
        raise ValueError(f"hits={hits} must lie in 0 .. total={total}")
    return hits / total
