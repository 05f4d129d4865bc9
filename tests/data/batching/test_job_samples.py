"""Which samples a job has of its folders, under which ids, and in which order."""

import dataclasses

import numpy as np
import pytest

from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.job_samples import JobSamples
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardError, ShardReader, ShardWriter
from editcaption_mega.data.start_tables import JobShards
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.settings import DataSettings, SettingsError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two sets of 12 and 5 pairs, whose ids are numbered alike."""
    root = tmp_path_factory.mktemp("sets")
    for name, count in (("a", 12), ("b", 5)):
        with ShardWriter(root / name) as writer:
            for index in range(count):
                made = render_pair(WorldSettings(), ord(name), index)
                pair = made.pair.model_copy(update={"id": f"{index + 1:03d}"})
                writer.add(pair, encode_png(made.source), "png", encode_png(made.target), "png")
    return root


def samples(root, **options) -> JobSamples:
    return JobSamples.of(DataSettings(shards=[str(root / "a"), str(root / "b")], **options), seed=9)


def ids(made: JobSamples) -> list[str]:
    return list(made.read().ids)


def test_a_folder_alone_has_the_order_and_fingerprint_that_it_always_had(folders):
    made = JobSamples.of(DataSettings(shards=[str(folders / "a")]), seed=9)
    columns, plain = made.read(), ShardReader([folders / "a"])
    assert columns.fingerprint == plain.fingerprint and list(columns.ids) == list(plain.ids)
    assert set(made.key()) == {"format", "folders"}, "tables of earlier versions are good"
    order = made.order(columns)
    assert [order.at(p) for p in range(40)] == [SampleOrder(12, 9).at(p) for p in range(40)]


def test_ids_of_two_sets_numbered_alike_get_prefixes(folders):
    with pytest.raises(ShardError, match=r"occurs twice in .*data.id_prefixes"):
        samples(folders).read()
    made = samples(folders, id_prefixes=["", "b-"])
    a, b = (list(ShardReader([folders / name]).ids) for name in ("a", "b"))
    assert ids(made) == [*a, *(f"b-{name}" for name in b)] and made.read().sizes == [12, 5]
    reader = ShardReader(made.directories, made.read())
    assert reader.pair(13).id == reader.meta(13).id == f"b-{b[1]}"
    assert reader.pair(3).id == a[3]
    others = [samples(folders, id_prefixes=prefixes).read().fingerprint for prefixes in (["", "c-"], ["a-", "b-"])]
    assert len({made.read().fingerprint, *others}) == 3, "answers are joined by id, so the ids are part of the data"


def test_the_first_samples_of_the_order(folders):
    whole = JobSamples.of(DataSettings(shards=[str(folders / "a")]), seed=9)
    names, order = ids(whole), SampleOrder(12, 9)
    taken = [dataclasses.replace(whole, max_samples=n) for n in (3, 7)]
    for n, made in zip((3, 7), taken, strict=True):
        rows = sorted(order.at(p) for p in range(n))
        assert ids(made) == [names[row] for row in rows] and made.read().indexed == 12
    assert set(ids(taken[0])) < set(ids(taken[1])), "more samples are the same ones and others"
    other_seed = dataclasses.replace(taken[1], seed=10)
    assert set(ids(other_seed)) != set(ids(taken[1]))
    assert ids(dataclasses.replace(taken[1], shuffle=False)) == names[:7]
    fingerprints = [made.read().fingerprint for made in (whole, *taken, other_seed)]
    assert len(set(fingerprints)) == 4, "each is other data"
    for n in (12, 100):
        assert dataclasses.replace(whole, max_samples=n).read().fingerprint == fingerprints[0]


def test_the_first_samples_of_a_mixture_have_its_weights(folders):
    made = samples(folders, id_prefixes=["a-", "b-"], weights=[0.5, 0.5], max_samples=8)
    assert made.read().sizes == [4, 4]
    made = dataclasses.replace(made, max_samples=14)
    assert made.read().sizes == [7, 5], "of the small set there are no more, and it comes again"
    made = samples(folders, id_prefixes=["a-", "b-"], weights=[0.9, 0.1], max_samples=3)
    with pytest.raises(SettingsError, match=r"/b has no sample among the first data.max_samples=3: raise that, or"):
        made.order(made.read())


def test_a_later_start_maps_the_same_samples(folders, tmp_path):
    made = samples(folders, id_prefixes=["a-", "b-"], weights=[0.7, 0.3], max_samples=10)
    first = JobShards(made, tmp_path / "tables")
    first.keep()
    later = JobShards(made, tmp_path / "tables").reader
    assert isinstance(later.columns.offset, np.memmap) and list(later.ids) == ids(made)
    assert later.columns.sizes == [7, 3] and later.pair(8) == first.reader.pair(8)
    assert later.pair(8).id.startswith("b-")
    order = made.order(later.columns)
    assert [order.at(p) for p in range(30)] == [made.order(made.read()).at(p) for p in range(30)]
    other = JobShards(dataclasses.replace(made, max_samples=9), tmp_path / "tables").reader
    assert len(other) == 9, "a table of other samples is not taken for these"


def test_shards_of_an_address_are_kept_where_the_settings_say(tmp_path):
    data = DataSettings(shards=["http://127.0.0.1:9/set"], cache=str(tmp_path), cache_gib=2.0, held_out_share=0.1)
    for made in (JobSamples.of(data, seed=9), JobSamples.held_out(data)):
        assert made.cache.most_bytes == 2 << 30 and [path.parent for path in made.directories] == [tmp_path]
