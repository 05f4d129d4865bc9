"""Agreement against published values and against what can be counted by hand."""

import numpy as np
import pytest

from editcaption_mega.evaluation.human.agreement import (
    annotator_agreement,
    judge_human_agreement,
    krippendorff_alpha,
    percent_agreement,
    severity_of_score,
    weighted_kappa,
)
from editcaption_mega.evaluation.rubric.opinions import merge, severity_of_labels
from editcaption_mega.records import HumanVerdict, Judgement

_ = None
# Krippendorff, "Computing Krippendorff's alpha-reliability" (2011), example C: 4 observers, 12 units.
OBSERVERS = [
    [1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _],
    [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3],
    [_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _],
    [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _],
]
UNITS = list(zip(*OBSERVERS, strict=True))


@pytest.mark.parametrize("metric, published", [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_alpha_of_krippendorffs_example(metric, published):
    found = krippendorff_alpha(UNITS, [1, 2, 3, 4, 5], metric)
    assert found.value == pytest.approx(published, abs=5e-4)
    assert found.n == 11, "the twelfth unit has one rating"
    assert found.interval[0] < published < found.interval[1] <= 1


def table(rows):
    """Ratings whose table of counts is this."""
    pairs = [(i, j) for i, row in enumerate(rows) for j, count in enumerate(row) for _ in range(count)]
    return [i for i, _ in pairs], [j for _, j in pairs]


def test_weighted_kappa_of_cohens_example():
    """Cohen (1968), table 1: personality disorder, neurosis, psychosis; 200 patients; his weights of disagreement."""
    first, second = table([[88, 14, 18], [10, 40, 10], [2, 6, 12]])
    found = weighted_kappa(first, second, range(3), [[0, 1, 3], [1, 0, 6], [3, 6, 0]])
    assert found.value == pytest.approx(0.348, abs=5e-4) and found.interval[0] < 0.348 < found.interval[1]
    assert weighted_kappa(first, second, range(3), "nominal").value == pytest.approx(0.492, abs=5e-4)


def test_weighted_kappa_by_hand():
    """Four units on three levels. Observed: 1 step once. By chance (margins 2,1,1 and 1,2,1 of 4), linear: (2*2 + 2*2 +
    1*1 + 1*1 + 1*2 + 1*2) / 16 with a distance of 2 counted twice; quadratic the same with it counted four times."""
    first, second = [0, 0, 1, 2], [0, 1, 1, 2]
    rows, columns = np.array([2, 1, 1]) / 4, np.array([1, 2, 1]) / 4
    for name, power in (("linear", 1), ("quadratic", 2)):
        chance = sum(rows[i] * columns[j] * abs(i - j) ** power for i in range(3) for j in range(3))
        assert weighted_kappa(first, second, range(3), name).value == pytest.approx(1 - 0.25 / chance)
    assert weighted_kappa(first, second, range(3), "linear").value == pytest.approx(1 - 0.25 / (14 / 16))


def test_quadratic_kappa_is_the_intraclass_correlation():
    """Fleiss and Cohen (1973): asymptotically; exactly 1 - sum d^2 / (n (var + var + mean difference^2))."""
    generator = np.random.default_rng(1)
    a = generator.integers(0, 4, 300)
    b = np.clip(a + generator.integers(-1, 2, 300), 0, 3)
    expected = 1 - ((a - b) ** 2).mean() / (a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    assert weighted_kappa(a.tolist(), b.tolist(), range(4)).value == pytest.approx(expected)


def test_interval_of_kappa_covers():
    """The true kappa of two raters who are right with 80 %, on two equal levels, is 0.36; 120 units, 300 samples."""
    generator = np.random.default_rng(4)
    held = 0
    for _run in range(300):
        truth = generator.integers(0, 2, 120)
        first, second = (np.where(generator.random(120) < 0.8, truth, 1 - truth).tolist() for _rater in range(2))
        low, high = weighted_kappa(first, second, range(2), draws=300).interval
        held += low <= 0.36 <= high
    assert 0.91 <= held / 300 <= 0.98


def test_percent_agreement():
    assert percent_agreement([["a", "a", "b"], ["a", None, "a"], ["b", None, None]]).value == 0.5, "2 of 4 pairs"
    assert percent_agreement([]).value is None


def test_agreement_that_is_not_defined():
    assert weighted_kappa([0, 0], [0, 0], range(2)).value is None, "nothing varies, so chance explains it all"
    assert krippendorff_alpha([[1, 1], [1, 1]], [1, 2]).value is None
    for found in (weighted_kappa([], [], range(2)), krippendorff_alpha([], range(2)), krippendorff_alpha([[1]], [1])):
        assert (found.value, found.interval, found.n) == (None, None, 0)


def test_perfect_agreement():
    assert weighted_kappa([0, 1, 2], [0, 1, 2], range(3)).value == 1
    assert krippendorff_alpha([[0, 0], [1, 1], [2, 2]], range(3)).value == 1


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: weighted_kappa([1], [1, 2], [1, 2]), "1 ratings and 2"),
        (lambda: weighted_kappa([1], [3], [1, 2]), "rating 3 is none of the levels 1, 2"),
        (lambda: weighted_kappa([1], [1], [1, 2], "cubic"), "expected one of nominal, linear, quadratic, or a matrix"),
        (lambda: weighted_kappa([1], [1], [1, 2], [[0]]), r"shape \(1, 1\), expected \(2, 2\)"),
        (lambda: krippendorff_alpha([[1, 1]], [1], "ratio"), "expected one of nominal, ordinal, interval"),
        (lambda: krippendorff_alpha([["P0", "P0"]], ["P0"], "interval"), "needs levels that are numbers"),
    ],
)
def test_wrong_arguments(call, told):
    with pytest.raises(ValueError, match=told):
        call()


def verdict(pair, severity, annotator="a", model="m"):
    return HumanVerdict(benchmark="b", id=pair, model=model, annotator=annotator, severity=severity)


def judged(pair, score=5.0, repeat=0, **labels):
    scores = dict.fromkeys(("accuracy", "completeness", "clarity"), score)
    return Judgement(benchmark="b", id=pair, model="m", judge="j", repeat=repeat, scores=scores, **labels)


def unscored(pair):
    reasons = dict.fromkeys(("accuracy", "completeness", "clarity"), "refused")
    return Judgement(benchmark="b", id=pair, model="m", judge="j", unscored=reasons)


def test_annotators():
    rows = [verdict(f"p{i}", severity) for i, severity in enumerate(["P0", "P1", "P2", "correct"])]
    rows += [verdict(f"p{i}", severity, "b") for i, severity in enumerate(["P0", "P0", "P2"])]
    found = annotator_agreement(rows)
    assert found.percent.value == pytest.approx(2 / 3) and found.alpha.n == 3
    # observed 1/3; by chance (0 + 0 + 4 + 1 + 1 + 1 + 4 + 4 + 0) / 9
    assert found.kappas["a", "b"].value == pytest.approx(1 - (1 / 3) / (15 / 9))
    same = annotator_agreement(
        [verdict("p", "P0"), verdict("q", "P1"), verdict("p", "P0", "b"), verdict("q", "P1", "b")]
    )
    assert same.alpha.value == same.kappas["a", "b"].value == same.percent.value == 1
    with pytest.raises(ValueError, match="annotator a has two verdicts"):
        annotator_agreement([verdict("p", "P0"), verdict("p", "P1")])


def assertion(verdict):
    return {"text": "..", "verdict": verdict}


@pytest.mark.parametrize(
    "labels, severity",
    [
        (dict(misses=["p1"]), "P0"),
        (dict(assertions=[assertion("major")], forbidden=["it"]), "P0"),
        (dict(assertions=[assertion("fabricated")]), "P0"),
        (dict(assertions=[assertion("unrelated")]), "P0"),
        (dict(assertions=[assertion("correct"), assertion("minor")]), "P1"),
        (dict(forbidden=["slightly"]), "P2"),
        (dict(assertions=[assertion("correct")]), "correct"),
    ],
)
def test_severity_of_a_judges_labels(labels, severity):
    assert severity_of_labels(judged("p", **labels)) == severity


def test_severity_of_a_score():
    assert [severity_of_score(s) for s in (1, 2.99, 3, 3.99, 4, 4.79, 4.8, 5)] == [
        "P0", "P0", "P1", "P1", "P2", "P2", "correct", "correct",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="must be three rising scores"):
        severity_of_score(3, (4, 3, 5))


def opinions(rows):
    """What is rated -> the judge's opinion of it."""
    by_unit = {}
    for row in rows:
        by_unit.setdefault((row.benchmark, row.id, row.model), []).append(row)
    return {unit: merge(repeats) for unit, repeats in by_unit.items()}


def test_judge_against_people():
    rows = [judged("p"), judged("q", misses=["p1"]), unscored("r"), judged("nobody")]
    people = [verdict("p", "correct"), verdict("q", "P0"), verdict("r", "P1"), verdict("unjudged", "P1")]
    found = judge_human_agreement(opinions(rows), people)
    assert (found.unscored, found.unjudged, found.without_verdict) == (1, 1, 1)
    assert found.kappa.value == found.percent.value == 1 and found.kappa.n == 2
    assert found.counts["P0", "P0"] == found.counts["correct", "correct"] == 1 and sum(found.counts.values()) == 2


def test_repeats_vote():
    people = [verdict("p", "P0"), verdict("q", "correct")]
    rows = [judged("q", correct=True), *(judged("p", 1 + repeat, repeat, correct=repeat == 0) for repeat in range(3))]
    by_score = judge_human_agreement(opinions(rows), people, "score")
    assert by_score.counts["P0", "P0"] == 1, "the mean of 1, 2, 3"
    by_correct = judge_human_agreement(opinions(rows), people, "correct")
    assert by_correct.levels == ("not correct", "correct") and by_correct.kappa.value == 1
    assert judge_human_agreement(opinions([judged("p")]), people, "correct").unscored == 1, "this judge cannot tell"


def test_rows_that_cannot_be_compared():
    with pytest.raises(ValueError, match="several verdicts: adjudicate"):
        judge_human_agreement({}, [verdict("p", "P0"), verdict("p", "P0", "b")])
    with pytest.raises(ValueError, match="expected one of labels, score, correct"):
        judge_human_agreement({}, [], "rank")
