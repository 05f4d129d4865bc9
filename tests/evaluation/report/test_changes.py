"""Which pairs a model mended and broke, counted by hand."""

import pytest

from editcaption_mega.evaluation.report.changes import MOST_CARDS, cards, changes_of
from editcaption_mega.evaluation.report.join import join
from editcaption_mega.records import Instruction, Judgement
from tests.helpers.report_samples import synthetic_benchmark

PAIRS = 60


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    return synthetic_benchmark(tmp_path_factory.mktemp("shards") / "s", PAIRS, "set / one")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return synthetic_benchmark(tmp_path_factory.mktemp("shards") / "s", 4, "before it", seed=3)


def written(benchmark, model):
    return [Instruction(benchmark=benchmark.name, id=i, model=model, instruction="Move it.") for i in benchmark.ids]


def judgement(benchmark, i, model, **labels):
    scores = {"accuracy": 5, "completeness": 5, "clarity": 5}
    return Judgement(benchmark=benchmark.name, id=benchmark.ids[i], model=model, judge="j", scores=scores, **labels)


def unscored(benchmark, i, model):
    reasons = dict.fromkeys(("accuracy", "completeness", "clarity"), "refused")
    return Judgement(benchmark=benchmark.name, id=benchmark.ids[i], model=model, judge="j", unscored=reasons)


def test_mended_broken_and_untold(benchmark, other):
    """Pairs 0 and 1 are mended, 2 is broken, of 3 the judge tells nothing; a severity stands in for `correct`."""
    before = [judgement(benchmark, i, "a", correct=i not in (0, 1)) for i in range(PAIRS) if i != 3]
    before[0] = judgement(benchmark, 0, "a", correct=False, failure_modes=["detail"])
    after = [judgement(benchmark, i, "b", misses=["p1"] if i == 2 else []) for i in range(PAIRS)]
    more = [judgement(other, i, "a") for i in range(4)]
    texts = [*written(other, "a"), *written(benchmark, "a"), *written(benchmark, "b")]
    joined = join([other, benchmark], texts, [*before, unscored(benchmark, 3, "a"), *after, *more])
    (change,) = changes_of(joined, "a", "b")  # none on the benchmark that only one of them has
    assert change.mended == tuple(benchmark.ids[:2]) and change.broken == (benchmark.ids[2],)
    assert (change.pairs, change.untold) == (PAIRS - 1, 1)
    (fault,) = change.faults
    assert (fault.fault, fault.before.hits, fault.before.total, fault.after.hits) == ("detail", 1, PAIRS - 1, 0)
    assert fault.relative == -1 and fault.difference == -1 / (PAIRS - 1) and not fault.settled
    first, second = cards(joined, change, change.mended)
    assert (first.sample, second.sample) == (4, 5), "after the four of the other benchmark"
    assert first.address == f"#set%20%2F%20one/{benchmark.ids[0]}"
    assert [(one.model, one.right, one.failure_modes) for one in first.answers] == [
        ("a", False, ("detail",)), ("b", True, ()),
    ]  # fmt: skip


def test_a_change_on_the_same_pairs_is_settled_where_intervals_of_the_shares_overlap(benchmark):
    """Half of the pairs have the fault before, and seven of these do no more."""
    wrong = [i for i in range(PAIRS) if i % 2]
    mended = wrong[:7]
    before = [judgement(benchmark, i, "a", failure_modes=["orientation"] if i in wrong else []) for i in range(PAIRS)]
    after = [
        judgement(benchmark, i, "b", failure_modes=["orientation"] if i in wrong and i not in mended else [])
        for i in range(PAIRS)
    ]
    texts = [*written(benchmark, "a"), *written(benchmark, "b")]
    (change,) = changes_of(join([benchmark], texts, [*before, *after]), "a", "b")
    (fault,) = change.faults
    assert fault.before.interval[0] < fault.after.interval[1], "the two intervals overlap"
    assert fault.settled and fault.interval[1] < 0 and fault.difference == pytest.approx(-7 / PAIRS)


def test_cards_show_every_edit_type_before_any_comes_again(benchmark):
    texts = [*written(benchmark, "a"), *written(benchmark, "b")]
    judgements = [judgement(benchmark, i, model, correct=model == "b") for model in "ab" for i in range(PAIRS)]
    joined = join([benchmark], texts, judgements)
    (change,) = changes_of(joined, "a", "b")
    shown = cards(joined, change, change.mended)
    types = [card.pair.edit_type for card in shown]
    known = {pair.edit_type for pair in benchmark.pairs()}
    first = types[: min(len(known), MOST_CARDS)]
    assert len(shown) == MOST_CARDS and len(set(first)) == len(first) > 5
    assert shown[0].truth == " ".join(one.text for one in shown[0].pair.changes.primary)
