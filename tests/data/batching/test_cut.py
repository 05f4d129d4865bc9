"""Which pairs a job holds out: a pure function of pictures, share and seed; and what others must not have in common."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from editcaption_mega.data.batching.cut import Cut, compared_with_training
from editcaption_mega.data.batching.job_samples import JobSamples
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter, open_shards
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.settings import DataSettings, SettingsError
from tests.helpers import small_job

SOURCES = np.random.default_rng(1).integers(-(1 << 62), 1 << 62, 2000)


def held_out(sources=SOURCES, share=0.1, seed=0):
    return Cut(share, seed, held_out=True).rows(sources)


@given(st.integers(1, 400), st.floats(1e-6, 1, exclude_max=True), st.integers(0, 1 << 40))
def test_as_many_as_the_share_says_and_never_none(count, share, seed):
    assert held_out(SOURCES[:count], share, seed).sum() == max(1, round(share * count))


def test_the_values_never_change():
    """Runs resume by them."""
    assert np.flatnonzero(held_out(np.arange(40), 0.1)).tolist() == GOLDEN


GOLDEN = [0, 10, 15, 30]


def test_another_seed_holds_out_others_and_no_order_matters():
    first = held_out()
    assert 0 < (first & held_out(seed=1)).sum() < 60, "a tenth of a tenth, as if drawn anew"
    shuffled = np.random.default_rng(2).permutation(len(SOURCES))
    assert np.array_equal(held_out(SOURCES[shuffled]), first[shuffled])


def test_a_larger_share_holds_out_the_same_and_more():
    assert (held_out(share=0.2) >= held_out(share=0.1)).all()


def test_pairs_of_a_source_picture_stay_together():
    sources = np.repeat(SOURCES[:50], 7)
    chosen = held_out(sources).reshape(50, 7)
    assert np.array_equal(chosen.any(1), chosen.all(1)) and 35 <= chosen.sum() < 35 + 7


def test_the_two_sides_are_all_pairs(tmp_path):
    shards = small_job.write_shards(tmp_path / "pairs")
    data = DataSettings(shards=[str(shards)], held_out_share=0.25, held_out_seed=3)
    sides = [JobSamples.of(data, 1).read(), JobSamples.held_out(data).read()]
    ids = [list(side.ids) for side in sides]
    everyone = list(open_shards(shards).ids)
    assert sorted(sum(ids, [])) == sorted(everyone) and len(ids[1]) == 6
    assert len({sides[0].fingerprint, sides[1].fingerprint, open_shards(shards).fingerprint}) == 3
    other_training_seed = JobSamples.of(data, 2).read()
    assert list(other_training_seed.ids) == ids[0]
    first = dataclasses.replace(data, max_samples=5)
    assert set(JobSamples.of(first, 1).read().ids) < set(ids[0])
    assert list(JobSamples.held_out(first).read().ids) == ids[1]


def write(folder, entries):
    """entries: (id, which rendered pair the source is of, and the target)"""
    with ShardWriter(folder) as writer:
        for name, source, target in entries:
            made = [render_pair(WorldSettings(), 5, index) for index in (source, target)]
            pair = made[0].pair.model_copy(update={"id": name})
            writer.add(pair, encode_png(made[0].source), "png", encode_png(made[1].target), "png")
    return folder


def test_all_of_one_source_cannot_be_cut(tmp_path):
    shards = write(tmp_path / "one", [(f"p{target}", 0, target) for target in range(4)])
    samples = JobSamples.of(DataSettings(shards=[str(shards)], held_out_share=0.1), 1)
    with pytest.raises(SettingsError, match=r"hold out all 4 pairs .* hold out pairs of other folders \(data.held_out"):
        samples.read()


def compared(tmp_path, entries):
    training = write(tmp_path / "training", [("a", 0, 0), ("b", 1, 1), ("c", 2, 2)])
    return compared_with_training(
        open_shards(write(tmp_path / "held-out", entries)).columns, open_shards(training).columns
    )


def test_others_are_others(tmp_path):
    assert compared(tmp_path, [("x", 3, 3), ("y", 4, 4)]) == []


def test_a_pair_that_is_trained_on_is_refused_whatever_its_id(tmp_path):
    with pytest.raises(SettingsError, match=r"sample y of data.held_out .* sample b of data.shards, as do 1 more of 3"):
        compared(tmp_path, [("x", 3, 3), ("y", 1, 1), ("z", 0, 0)])


def test_shared_sources_and_ids_are_said(tmp_path):
    source, ids = compared(tmp_path, [("a", 3, 3), ("y", 1, 4)])
    assert "the source pictures of 1 of 2 held-out pairs are in data.shards, too" in source
    assert "1 ids of held-out pairs" in ids


def test_swapped_pairs_are_said(tmp_path):
    with ShardWriter(tmp_path / "swapped") as writer:
        made = render_pair(WorldSettings(), 5, 2)
        writer.add(made.pair, encode_png(made.target), "png", encode_png(made.source), "png")
    training = write(tmp_path / "training", [("a", 0, 0), ("c", 2, 2)])
    lines = compared_with_training(open_shards(tmp_path / "swapped").columns, open_shards(training).columns)
    assert "1 of 1 held-out pairs are in data.shards, too, with source and target swapped" in lines[0]
