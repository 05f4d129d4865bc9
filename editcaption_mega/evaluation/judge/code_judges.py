"""Judges without a model: each labels one instruction by code."""

from collections.abc import Callable
from typing import Any, NamedTuple

from editcaption_mega.records import DIMENSIONS, FAILURE_MODES, Changes
from editcaption_mega.records.evaluation import Dimension

from . import rule_judge
from .reply_scores import accuracy_of


class CodeJudge(NamedTuple):
    """(instruction, ground truth) -> fields of a `records.Judgement`: its scores, or why a dimension is `unscored`, and
    what it can tell besides; `provenance` may hold more."""

    judge: Callable[[str, Changes], dict[str, Any]]
    needs_facts: bool  # whether the truth must be machine-readable
    about: str  # what the report says of it
    dimensions: tuple[Dimension, ...] = DIMENSIONS  # that it scores; the others are unscored in each row


def _by_rules(instruction: str, truth: Changes) -> dict[str, Any]:
    judged, claims = rule_judge.judge(instruction, truth), rule_judge.assertions(instruction, truth)
    return {
        "scores": {dimension: getattr(judged, dimension) for dimension in DIMENSIONS},
        "hits": list(judged.hits),
        "misses": [change.id for change in truth.primary if change.id not in judged.hits],
        "assertions": claims,
        "forbidden": list(judged.forbidden),
        "failure_modes": [mode for mode in FAILURE_MODES if mode in judged.failure_modes],
        "correct": judged.correct,
        "provenance": {"acc_no_coverage": accuracy_of(claims, truth)[1]},
    }


# The kinds of judges in the settings that are no model.
CODE_JUDGES = {
    "rule": CodeJudge(_by_rules, True, "a parser: reads each instruction against the pair's facts"),
}


def code_judge(kind: str) -> CodeJudge:
    """Raises ValueError for a kind that the settings take and nobody has written."""
    if kind not in CODE_JUDGES:
        raise ValueError(
            f"no function judges for kind {kind}: expected one of {', '.join(CODE_JUDGES)}; list its function in "
            "CODE_JUDGES of evaluation/judge/code_judges.py, or name another kind"
        )
    return CODE_JUDGES[kind]
