"""Benchmarks: lists of ids, ground truth of their own, and joins that are exact."""

import pytest

from editcaption_mega.evaluation.benchmarks import Benchmark, read_ids
from editcaption_mega.records import Changes
from tests.helpers import small_job


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_job.write_shards(tmp_path_factory.mktemp("set") / "shards", count=6)


def test_a_list_of_ids_chooses_and_orders(shards):
    whole = Benchmark("b", shards)
    some = Benchmark("b", shards, [whole.ids[4], whole.ids[1]])
    assert [item.pair.id for item in some] == [whole.ids[4], whole.ids[1]] == [pair.id for pair in some.pairs()]
    assert some.item(0).source == whole.item(4).source and some.fingerprint != whole.fingerprint
    assert whole.first(2).ids == whole.ids[:2]


def test_other_ground_truth_replaces_the_shards_and_changes_the_fingerprint(shards):
    whole = Benchmark("b", shards)
    truth = {one: Changes(primary=[{"id": "P1", "text": "x"}], overall="y") for one in whole.ids}
    other = Benchmark("b", shards, truth=truth)
    assert other.pair(0).changes == other.item(0).pair.changes == truth[whole.ids[0]]
    assert other.fingerprint != whole.fingerprint == Benchmark("b", shards).fingerprint
    with pytest.raises(ValueError, match="the ground truth does not fit benchmark b: 1 of 6 ids are missing"):
        Benchmark("b", shards, truth=dict(list(truth.items())[1:]))


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda ids: ids[:-1], "1 of 6 ids are missing (syn-00000003-000005)"),
        (lambda ids: [*ids, "new"], "1 are unknown (new)"),
        (lambda ids: [*ids, ids[0]], "holds 1 ids more than once (syn-00000003-000000)"),
        (lambda ids: [ids[0].upper(), *ids[1:]], "1 of 6 ids are missing (syn-00000003-000000), 1 are unknown (SYN-"),
        (lambda ids: [f"{ids[0]}.png", *ids[1:]], "1 are unknown (syn-00000003-000000.png)"),
    ],
    ids=["missing", "extra", "twice", "another spelling", "file name"],
)
def test_a_join_names_what_does_not_fit(shards, change, told):
    benchmark = Benchmark("b", shards)
    benchmark.check_join(reversed(benchmark.ids), "results")
    with pytest.raises(ValueError) as error:
        benchmark.check_join(change(benchmark.ids), "results")
    assert told in str(error.value) and "results" in str(error.value)


def test_lists_that_cannot_be_meant_are_told(shards, tmp_path):
    with pytest.raises(ValueError, match="1 of 1 listed ids are not in"):
        Benchmark("b", shards, ["nowhere"])
    with pytest.raises(ValueError, match="more than once"):
        Benchmark("b", shards, [Benchmark("b", shards).ids[0]] * 2)
    (tmp_path / "ids.txt").write_text("# drawn with seed 1\n\n a \nb\n")
    assert read_ids(tmp_path / "ids.txt") == ["a", "b"]
    (tmp_path / "ids.txt").write_text("# nothing\n")
    with pytest.raises(ValueError, match="is empty"):
        read_ids(tmp_path / "ids.txt")
    with pytest.raises(ValueError, match="does not exist"):
        read_ids(tmp_path / "none.txt")
