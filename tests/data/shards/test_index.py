"""The index as arrays beside index.json; tests/data/shards/test_shards.py has what earlier versions wrote."""

import json
import multiprocessing
import os
import signal
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from editcaption_mega.data import open_shards
from editcaption_mega.data.array_file import write_arrays
from editcaption_mega.data.images.decode import ImageError
from editcaption_mega.data.shards.index import columns_key, load_index, write_index
from editcaption_mega.data.shards.index_columns import ColumnsBuilder, IndexColumns
from editcaption_mega.data.shards.reader import ShardError, rebuild_index, verify
from editcaption_mega.records import RecordError
from tests.data.shards.test_shards import picture, write
from tests.helpers.old_index import write_old_index

IDS = ["a", "b", "c-1", "d_2", "e" * 200]


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "set", IDS, samples_per_shard=2)


def columns_file(folder):
    (path,) = folder.glob("index-*.safetensors")
    return path


def content(folder):
    reader = open_shards(folder)
    return reader.fingerprint, list(reader.ids), list(reader), [reader.meta(i) for i in range(len(reader))]


def test_samples_are_those_that_were_written(folder):
    samples = load_index(folder).samples
    assert [sample.id for sample in samples] == IDS == [samples[i].id for i in range(len(samples))]
    first = samples[0]
    assert (first.source.name, first.target.name, first.json.name) == ("a.src.png", "a.tgt.png", "a.json")
    assert (first.source.width, first.source.height, first.json.width) == (8, 6, None)
    with open(folder / "shard-000000.tar", "rb") as tar:
        assert os.pread(tar.fileno(), first.target.bytes, first.target.offset) == picture(100, (5, 9))
    assert list(IndexColumns.of(list(samples))) == list(samples) == samples[:]


def test_the_index_of_many_samples_is_on_the_disk_while_it_grows(folder, tmp_path):
    index = load_index(folder)
    builder, count, first = ColumnsBuilder(), 12_000, index.samples[0]
    tracemalloc.start()
    try:
        for i in range(count):
            builder.add(numbered(first, i))
        written = write_index(tmp_path, index.shards, builder)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 1_500_000 < 2_000_000 < sum(values.nbytes for values in written.samples.arrays.values())
    loaded, in_memory = load_index(tmp_path), builder.columns()
    assert loaded.fingerprint == in_memory.fingerprint() and len(in_memory) == count
    assert [loaded.samples[0], loaded.samples[-1]] == [numbered(first, 0), numbered(first, count - 1)]
    for name, values in in_memory.arrays.items():
        assert np.array_equal(values, loaded.samples.arrays[name])


def numbered(sample, i):
    members = {name: getattr(sample, name) for name in ("source", "target", "json")}
    members = {name: replace(each, name=each.name.replace("a.", f"a{i}.", 1)) for name, each in members.items()}
    return replace(sample, id=f"a{i}", **members)


def test_folders_of_earlier_versions_are_read_and_upgraded(folder):
    new, files = content(folder), {path.name: path.read_bytes() for path in folder.iterdir()}
    write_old_index(folder)
    assert content(folder) == new and not list(folder.glob("index-*"))
    rebuild_index(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files


def test_every_damaged_byte_is_told(folder):
    path = columns_file(folder)
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match="damaged, or of another index.json than the one beside it"):
            open_shards(folder)
    path.write_bytes(whole[:-1])
    with pytest.raises(ShardError, match="damaged"):
        open_shards(folder)
    path.unlink()
    with pytest.raises(ShardError, match=r"index-.*safetensors: missing, though index.json names it: copy it too, or"):
        open_shards(folder)


def changed(folder, name, change):
    """The columns with one array that is another, and a checksum that is right."""
    index = load_index(folder)
    arrays = {key: np.array(values) for key, values in index.samples.arrays.items()}
    arrays[name] = change(arrays[name])
    write_arrays(columns_file(folder), columns_key(index.fingerprint, index.shards), arrays)


def with_value(place, value):
    def change(values):
        values[place] = value
        return values

    return change


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("shard", with_value(0, 3), "sample 'a' lies in shard 3 of 3"),
        ("shard", with_value(1, -1), "sample 'b' lies in shard -1 of 3"),
        ("offset", with_value((0, 1), 10**15), "the target of sample 'a' lies outside its shard"),
        ("offset", with_value((0, 1), 2**63 - 1), "the target of sample 'a' lies outside its shard"),
        ("offset", with_value((2, 0), -512), "the source of sample 'c-1' lies outside its shard"),
        ("bytes", with_value((0, 2), 2**31 - 1), "the json of sample 'a' has 2147483647 bytes, more than the 4194304"),
        ("bytes", with_value((0, 0), -1), "the source of sample 'a' has -1 bytes"),
        ("pixels", with_value((3, 1, 0), 0), "the target of sample 'd_2' has 0 x 9 pixels"),
        ("pixels", with_value((3, 0), 2**31 - 1), "the source of sample 'd_2' has 2147483647 x 2147483647 pixels"),
        ("form", with_value((0, 0), 8), "sample 'a' has a member whose name has no such form"),
        ("ids", with_value(1, 10), "an id holds other characters than letters"),
        ("id_ends", with_value(0, 0), "an id has no characters, or more than 200"),
        ("id_ends", with_value(0, 2), "an id has no characters"),
        ("id_ends", with_value(3, 4), "an id has no characters, or more than 200"),
        ("id_ends", with_value(4, 9), "the ids are not as long as their ends say"),
        ("ids", lambda ids: ids[:-1], "the ids are not as long as their ends say"),
        ("shard", lambda shard: shard[:-1], r"shard is int32 \[4\], expected int32 \[5\]"),
        ("offset", lambda offset: offset.astype(np.int32), r"offset is int32 \[5, 3\], expected int64 \[5, 3\]"),
        ("sha256", lambda values: values[:, :, :16], r"sha256 is uint8 \[5, 3, 16\]"),
    ],
)
def test_what_no_writer_writes_is_one_sentence(folder, name, change, message):
    changed(folder, name, change)
    with pytest.raises(ShardError, match=f"index.json: damaged .*{message}.*: make the folder with") as error:
        open_shards(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"samples": 6}, "holds 5 samples, expected 6"),
        ({"samples": True}, "samples is True, expected int"),
        ({"columns": "../x.safetensors"}, "'../x.safetensors' is not index-NUMBER.safetensors"),
        ({"columns": None}, "columns is None, expected str"),
        ({"fingerprint": "0" * 64}, "of another index.json than the one beside it"),
    ],
)
def test_an_index_json_that_does_not_go_with_the_columns(folder, change, message):
    path = folder / "index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ShardError, match=message):
        open_shards(folder)


def test_values_that_pass_the_check_harm_nobody(folder):
    """Wrong, but possible: reading says so, or the full check."""
    changed(folder, "offset", with_value((0, 2), 512))
    with pytest.raises((ShardError, RecordError, ImageError)):
        open_shards(folder)[0]
    assert any("does not list the members as the tar holds them" in line for line in map(str, verify(folder)))


@pytest.mark.parametrize("place", ["columns", "json", "old columns"])
def test_a_rebuild_that_is_killed_leaves_an_index_that_works(folder, monkeypatch, place):
    before = content(folder)
    # The same samples in other tars.
    os.rename(folder / "shard-000002.tar", folder / "x.tar")

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    process = os.fork()
    if process == 0:
        try:
            if place == "columns":
                monkeypatch.setattr("editcaption_mega.data.shards.index.replacing", die)
            elif place == "json":
                monkeypatch.setattr("editcaption_mega.files.os.replace", die)
            else:
                monkeypatch.setattr("pathlib.Path.unlink", die)
            rebuild_index(folder)
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL
    if place == "old columns":
        assert content(folder) == before
    else:
        os.rename(folder / "x.tar", folder / "shard-000002.tar")
        assert content(folder) == before
        os.rename(folder / "shard-000002.tar", folder / "x.tar")
    rebuild_index(folder)
    assert content(folder) == before and len(list(folder.glob("index-*"))) == 1


def _ids(reader, queue):
    queue.put((list(reader.ids), isinstance(reader.columns.offset, np.memmap), reader[1].pair.id))


def test_another_process_maps_the_same_file(folder):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_ids, args=(open_shards(folder), queue))
    process.start()
    assert queue.get(timeout=120) == (IDS, True, "b")
    process.join()


def test_two_folders_with_one_id(folder, tmp_path):
    other = write(tmp_path / "other", ["f", "d_2"])
    with pytest.raises(ShardError, match="id 'd_2' occurs twice in .*set, .*other"):
        open_shards([folder, other])
    write(tmp_path / "third", ["f", "g"])
    reader = open_shards([folder, tmp_path / "third"])
    assert list(reader.ids) == [*IDS, "f", "g"] and reader[6].pair.id == "g" and reader.columns.sizes == [5, 2]
