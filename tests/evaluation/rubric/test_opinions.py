"""Repeats of a judge become one opinion by one rule, and whoever asks for it gets the same."""

from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.evaluation.human.agreement import judge_human_agreement, severity_of_score
from editcaption_mega.evaluation.rubric.opinions import FAULTS, MEASURES, merge
from editcaption_mega.evaluation.rubric.scores import weighted_score
from editcaption_mega.evaluation.stats.comparisons import dimension_correlations, judge_repeat_variance
from editcaption_mega.records import DIMENSIONS, SEVERITIES, HumanVerdict, Judgement

WHO = {"benchmark": "b", "id": "p", "model": "m", "judge": "j"}


def judgement(repeat=0, scores=(5, 5, 5), **labels):
    given = {name: score for name, score in zip(DIMENSIONS, scores, strict=True) if score is not None}
    unscored = {name: "cut off" for name in DIMENSIONS if name not in given}
    return Judgement(**WHO, repeat=repeat, scores=given, unscored=unscored, **labels)


def agreement(rows, mapping):
    """The level that the agreement with people takes for the judge's, None for unscored."""
    people = [HumanVerdict(benchmark="b", id="p", model="m", annotator="a", severity="P0")]
    counts = judge_human_agreement({("b", "p", "m"): merge(rows)}, people, mapping, draws=10).counts
    return next((judge for (judge, _), count in counts.items() if count), None)


def test_A12_a_repeat_that_lacks_a_dimension_counts_alike_everywhere():
    """At 837b10c the report had 3.8 of these two rows, the agreement 3.0."""
    rows = [judgement(scores=(5, 5, None)), judgement(1, scores=(3, 3, 3))]
    expected = weighted_score(4, 4, 3)
    assert merge(rows).scores["weighted"] == pytest.approx(expected)
    assert agreement(rows, "score") == severity_of_score(expected)


def test_every_score_that_was_given_counts():
    """Of repeats (5, 5, 5) and (3, -, 4) the opinion is 4.5, the weighted score of the means 4, 5, 4.5. The mean of the
    weighted scores of whole repeats would be 5.0: it drops the second repeat, and with it the doubts that this repeat
    did voice, only because a third reply was lost. A lost reply may widen an interval; it must not raise a score."""
    rows = [judgement(scores=(5, 5, 5)), judgement(1, scores=(3, None, 4))]
    opinion = merge(rows)
    assert opinion.scores == {
        "accuracy": 4, "completeness": 5, "clarity": 4.5, "weighted": pytest.approx(4.5)
    }  # fmt: skip
    assert opinion.partly == {"completeness": 1} and opinion.values["weighted"] == [5]
    assert agreement(rows, "score") == severity_of_score(4.5) != severity_of_score(5.0)


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
    given = {name: [row.scores[name] for row in rows if name in row.scores] for name in DIMENSIONS}
    means = {name: fmean(scores) for name, scores in given.items() if scores}
    assert {name: score for name, score in opinion.scores.items() if name != "weighted"} == pytest.approx(means)
    if len(means) == 3:
        assert opinion.scores["weighted"] == pytest.approx(weighted_score(**means))
    repeats = judge_repeat_variance({"p": opinion, "q": opinion})
    for measure in MEASURES:
        assert repeats[measure].scores == (2 * len(opinion.values[measure]) if len(opinion.values[measure]) > 1 else 0)
    whole = len(means) == 3
    assert dimension_correlations({"p": opinion}, draws=10)["accuracy", "clarity"]["pearson"].n == whole
    assert agreement(rows, "labels") == opinion.severity
    assert agreement(rows, "correct") == {None: None, True: "correct", False: "not correct"}[opinion.correct]
    weighted = opinion.scores.get("weighted")
    assert agreement(rows, "score") == (None if weighted is None else severity_of_score(weighted))
    assert set(opinion.faults) <= set(FAULTS) and opinion.severity in (None, *SEVERITIES)
