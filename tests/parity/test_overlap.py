"""Gradients reduced and weights gathered while others are computed: in every layout of the parity matrix, with two
data-parallel ranks, the same bits as without, and no weight is read before it is whole."""

import json
import sys

import pytest

from tests.helpers import tiny, warm

from . import matrix, overlap_worker, worker

# What `make test` compares: a tied and an untied head, two stages with chunks of their own, experts that more ranks
# have alike than have the other weights, and gradients that are whole only behind the backward passes.
FAST = ["dense/1 rank", "moe/PP2 x VPP2", "moe/TP2, expert TP1", "moe/PP2, delayed weight gradients"]


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """What each rank wrote of a case, by run: off, on, resumed."""
    known: dict[str, dict[str, list[dict]]] = {}

    def numbers(name: str) -> dict[str, list[dict]]:
        if name not in known:
            names = FAST if name in FAST else [other for other in matrix.ALL if other not in FAST]
            known.update(_measure(tmp_path_factory.mktemp("overlap"), names))
        return known[name]

    return numbers


def _measure(work, names):
    for kind in ("dense", "moe"):
        tiny.hf_model(experts=kind == "moe", tied=kind == "dense").save_pretrained(work / kind)
    counts = {name: overlap_worker.ranks_of(name.split("/")[1]) for name in names}
    for count in sorted(set(counts.values())):
        chosen = [name for name in names if counts[name] == count]
        command = [sys.executable, "-m", "tests.parity.overlap_worker", work, *chosen]
        warm.run_ranks(command, count, timeout=3000)
    results = {}
    for name in names:
        slug = worker.slug_of(*name.split("/"))
        results[name] = {
            run: [json.loads(path.read_text()) for path in sorted((work / "overlap").glob(f"{slug}-{run}.*.json"))]
            for run in ("off", "on", "resumed")
        }
        assert [len(ranks) for ranks in results[name].values()] == [counts[name]] * 3
    return results


EACH = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow]) for name in matrix.ALL]
)


@EACH
def test_on_and_off_are_the_same_bits(measured, name):
    runs = measured(name)
    for off, on in zip(runs["off"], runs["on"], strict=True):
        assert on["buckets"] > 1, "with one bucket this shows little"
        assert (on["numbers"], on["digest"]) == (off["numbers"], off["digest"])


@EACH
def test_a_checkpoint_of_a_run_that_overlaps_is_whole(measured, name):
    """Written right behind an update, whose weights are still on their way."""
    runs = measured(name)
    for on, resumed in zip(runs["on"], runs["resumed"], strict=True):
        assert (resumed["numbers"], resumed["digest"]) == (on["numbers"][overlap_worker.SAVED_AFTER :], on["digest"])


@EACH
def test_no_weight_is_read_before_it_is_whole(measured, name):
    assert not [read for run in ("on", "resumed") for rank in measured(name)[run] for read in rank["early"]]
