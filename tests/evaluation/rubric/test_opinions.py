"""Repeats of a judge become one opinion by one rule, and whoever asks for it gets the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.evaluation.human.agreement import judge_human_agreement, severity_of_score
from editcaption_mega.evaluation.rubric.opinions import FAULTS, MEASURES, merge
from editcaption_mega.evaluation.rubric.scores import weighted_score
from editcaption_mega.evaluation.stats.comparisons import mean_scores
from editcaption_mega.records import DIMENSIONS, SEVERITIES, HumanVerdict, Judgement

WHO = {"benchmark": "b", "id": "p", "model": "m", "judge": "j"}


def judgement(repeat=0, scores=(5, 5, 5), **labels):
    given = {name: score for name, score in zip(DIMENSIONS, scores, strict=True) if score is not None}
    unscored = {name: "cut off" for name in DIMENSIONS if name not in given}
    return Judgement(**WHO, repeat=repeat, scores=given, unscored=unscored, **labels)


def agreement(rows, mapping):
    """The level that the agreement with people takes for the judge's, None for unscored."""
    people = [HumanVerdict(benchmark="b", id="p", model="m", annotator="a", severity="P0")]
    counts = judge_human_agreement(rows, people, mapping, draws=10).counts
    return next((judge for (judge, _), count in counts.items() if count), None)


def test_A12_a_repeat_that_lacks_a_dimension_counts_alike_everywhere():
    """At 837b10c the report had 3.8 of these two rows, the agreement 3.0."""
    rows = [judgement(scores=(5, 5, None)), judgement(1, scores=(3, 3, 3))]
    expected = weighted_score(4, 4, 3)
    assert merge(rows).scores["weighted"] == mean_scores(rows, "weighted")["p"] == pytest.approx(expected)
    assert agreement(rows, "score") == severity_of_score(expected)


@pytest.mark.parametrize(
    "labels, severity, faults",
    [
        ([{"misses": ["p1"]}, {}], "P0", ("missed change",)),  # ties count against the model
        ([{"misses": ["p1"]}, {}, {}], "correct", ()),
        ([{"misses": ["p1"]}, {"assertions": [{"text": "a", "verdict": "major"}]}, {}], "P0", ()),
        ([{"misses": ["p1"]}, {"forbidden": ["it"]}, {}], "P2", ()),
        ([{"forbidden": ["it"]}, {"forbidden": ["it"]}, {"misses": ["p1"]}], "P2", ("forbidden term",)),
    ],
)
def test_a_label_holds_when_half_of_the_repeats_give_it(labels, severity, faults):
    rows = [judgement(repeat, **one) for repeat, one in enumerate(labels)]
    assert (merge(rows).severity, merge(rows).faults) == (severity, faults)
    assert agreement(rows, "labels") == severity


def test_a_fault_is_told_by_those_who_judged_its_dimension():
    """A repeat without completeness has no misses, and says nothing of them."""
    rows = [judgement(misses=["p1"]), judgement(1, (5, None, 5)), judgement(2, (5, None, 5))]
    assert merge(rows).faults == ("missed change",)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_every_reader_of_repeats_has_the_same_opinion(data):
    score = st.sampled_from([None, 1, 3, 4.5, 5])
    rows = [
        judgement(
            repeat,
            data.draw(st.tuples(score, score, score)),
            misses=data.draw(st.lists(st.just("p1"), max_size=1)),
            forbidden=data.draw(st.lists(st.just("it"), max_size=1)),
            correct=data.draw(st.sampled_from([None, True, False])),
        )
        for repeat in range(data.draw(st.integers(1, 5)))
    ]
    opinion = merge(rows)
    assert merge(rows[::-1]).scores == pytest.approx(opinion.scores) and merge(rows[::-1]).severity == opinion.severity
    for measure in MEASURES:
        assert mean_scores(rows, measure)["p"] == opinion.scores.get(measure)
    assert agreement(rows, "labels") == opinion.severity
    assert agreement(rows, "correct") == {None: None, True: "correct", False: "not correct"}[opinion.correct]
    weighted = opinion.scores.get("weighted")
    assert agreement(rows, "score") == (None if weighted is None else severity_of_score(weighted))
    assert set(opinion.faults) <= set(FAULTS) and opinion.severity in (None, *SEVERITIES)
