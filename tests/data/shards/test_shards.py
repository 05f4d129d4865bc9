import copy
import functools
import io
import json
import multiprocessing
import os
import re
import resource
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings, strategies
from PIL import Image

from editcaption_mega.data import open_shards
from editcaption_mega.data.images.decode import ImageError, encode_png
from editcaption_mega.data.shards.index import load_index
from editcaption_mega.data.shards.reader import DuplicateIdError, ShardError, ShardWriter, rebuild_index, verify
from editcaption_mega.records import EditPair, RecordError
from tests.helpers import ROOT
from tests.helpers.old_index import write_old_index


def pair(identity, **more):
    return EditPair(id=identity, category="semantic", edit_type="add", instruction=f"Add ü to {identity}", **more)


def picture(colour, size=(8, 6)):
    return encode_png(Image.new("RGB", size, (colour, colour, colour)))


def write(folder, ids, **options):
    with ShardWriter(folder, **options) as writer:
        for number, identity in enumerate(ids):
            writer.add(pair(identity), picture(number), "png", picture(number + 100, (5, 9)), "png")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "set", ["a", "b", "c-1", "d_2", "e"], samples_per_shard=2)


def problems(folder):
    return [f"{checked.name}: {problem}" for checked in verify(folder) for problem in checked.problems]


def edit_index(folder, change):
    path = write_old_index(folder) / "index.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_round_trip(folder):
    names = sorted(path.name for path in folder.iterdir())
    assert re.fullmatch(r"index-[0-9a-f]{12}\.safetensors", names.pop(0))
    assert names == ["index.json", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    reader = open_shards(folder)
    assert len(reader) == 5 and reader.ids == ["a", "b", "c-1", "d_2", "e"]
    for i, sample in enumerate(reader):
        assert sample.pair == pair(reader.ids[i])
        assert (sample.source_bytes, sample.target_bytes) == (picture(i), picture(i + 100, (5, 9)))
        assert sample.source_size == (8, 6) and sample.target_size == (5, 9)
        meta = reader.meta(i)
        assert (meta.id, meta.source_size, meta.target_size) == (reader.ids[i], (8, 6), (5, 9))
    assert reader[-1].pair.id == "e"
    for i in (5, -6):
        with pytest.raises(IndexError, match="of 5"):
            reader[i]
    assert problems(folder) == []


def test_plain_webdataset_reads_the_folder(folder):
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["a", "b", "c-1", "d_2", "e"]
    for sample, ours in zip(samples, open_shards(folder), strict=True):
        assert sample["src.png"] == ours.source_bytes and sample["tgt.png"] == ours.target_bytes
        assert EditPair.from_json(json.loads(sample["json"])) == ours.pair


def test_equal_samples_give_equal_bytes_and_the_fingerprint_ignores_the_cut(folder, tmp_path):
    ids = open_shards(folder).ids
    again = write(tmp_path / "again", ids, samples_per_shard=2)
    for path in folder.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes()
    one = write(tmp_path / "one", ids)
    assert len(list(one.glob("*.tar"))) == 1
    small = write(tmp_path / "small", ids, bytes_per_shard=1)
    assert len(list(small.glob("*.tar"))) == 5
    fingerprint = open_shards(folder).fingerprint
    assert open_shards(one).fingerprint == open_shards(small).fingerprint == fingerprint
    assert open_shards(write(tmp_path / "fewer", ids[:-1])).fingerprint != fingerprint
    assert open_shards(write(tmp_path / "other", ids[::-1])).fingerprint != fingerprint


def test_long_ids_keep_their_offsets(tmp_path):
    ids = ["x" * 200, "y" * 150, "z" * 92, "w" * 91]
    write(tmp_path / "set", ids)
    reader = open_shards(tmp_path / "set")
    assert [sample.pair.id for sample in reader] == ids and problems(tmp_path / "set") == []


def test_several_folders_are_one_set(folder, tmp_path):
    other = write(tmp_path / "other", ["x", "y"])
    reader = open_shards([folder, str(other)])
    assert len(reader) == 7 and reader[5].pair.id == "x" and reader.meta(6).id == "y"
    assert reader[5].source_bytes == picture(0)
    assert reader.fingerprint == open_shards([folder, other]).fingerprint
    assert len({reader.fingerprint, open_shards(folder).fingerprint, open_shards([other, folder]).fingerprint}) == 3
    with pytest.raises(ShardError, match="id 'a' occurs twice in .*: results are joined by id"):
        open_shards([folder, folder])
    with pytest.raises(ShardError, match="no folder of shards was given"):
        open_shards([])


def _read_all(reader):
    return [reader[i].pair.id for i in range(len(reader))]


def _read_many_times(reader):
    assert all(_read_all(reader) == reader.ids for _ in range(20))


def test_threads_forks_and_spawned_copies_read_the_same(folder, monkeypatch):
    reader = open_shards(folder)
    assert reader[0].pair.id == "a"  # a file is open before the fork
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: _read_all(reader), range(16)):
            assert found == reader.ids
    forked = [multiprocessing.get_context("fork").Process(target=_read_many_times, args=(reader,)) for _ in range(2)]
    for process in forked:
        process.start()
    _read_many_times(reader)
    for process in forked:
        process.join()
        assert process.exitcode == 0
    other = copy.copy(reader)  # as a spawned process gets it: without the open files
    assert not other._files and _read_all(other) == reader.ids
    monkeypatch.setattr("editcaption_mega.data.shards.reader._MOST_OPEN_FILES", 1)
    with open_shards(folder) as few:
        before = len(os.listdir("/proc/self/fd"))
        assert _read_all(few) == reader.ids
        assert len(os.listdir("/proc/self/fd")) == before + 1


# Refusals of the writer


def test_a_folder_that_holds_something_is_refused(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ShardError, match="not empty .it holds index-.* and more., and nothing is overwritten"):
        ShardWriter(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="a file, not a folder"):
        ShardWriter(tmp_path / "file")


def test_duplicate_ids_and_bad_images_are_refused_and_the_rest_stays(tmp_path):
    with ShardWriter(tmp_path / "set") as writer:
        writer.add(pair("a"), picture(1), "png", picture(2), "png")
        with pytest.raises(DuplicateIdError, match="id 'a' is already in the set"):
            writer.add(pair("a"), picture(3), "png", picture(4), "png")
        with pytest.raises(ImageError, match="b target: empty"):
            writer.add(pair("b"), picture(3), "png", b"", "png")
        with pytest.raises(ValueError, match="extension 'gif': expected one of jpg, png, webp"):
            writer.add(pair("b"), picture(3), "gif", picture(4), "png")
    assert open_shards(tmp_path / "set").ids == ["a"] and problems(tmp_path / "set") == []


def test_a_failed_job_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path / "set", samples_per_shard=1) as writer:
        for name in "abc":
            writer.add(pair(name), picture(1), "png", picture(2), "png")
        assert not list((tmp_path / "set").glob("*.tar"))  # nothing that looks whole before it is
        raise KeyboardInterrupt
    assert not (tmp_path / "set").exists()
    with pytest.raises(ShardError, match="no sample was added"), ShardWriter(tmp_path / "set"):
        pass
    assert not (tmp_path / "set").exists()


def test_a_failure_while_closing_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("editcaption_mega.data.shards.writer.write_index", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "set", ["a", "b"], samples_per_shard=1)
    assert not (tmp_path / "set").exists()


# Killed writers


def killed(work):
    """Run `work` in another process, which kills itself there."""
    process = os.fork()
    if process == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.waitpid(process, 0)[1] == signal.SIGKILL


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("place", ["start", "first sample", "second shard", "renamed", "index"])
def test_a_killed_writer_begins_again_by_itself(tmp_path, folder, monkeypatch, place):
    ids = open_shards(folder).ids

    def work():
        if place == "renamed":
            monkeypatch.setattr("editcaption_mega.data.shards.writer.write_index", die)
        if place == "index":
            monkeypatch.setattr("os.fsync", lambda _: die() if list(out.glob("index.json.*")) else None)
        writer = ShardWriter(out, samples_per_shard=2)
        for number, identity in enumerate(ids):
            if (place, number) in (("start", 0), ("first sample", 1), ("second shard", 3)):
                die()
            writer.add(pair(identity), picture(number), "png", picture(number + 100, (5, 9)), "png")
        writer.close()

    out = tmp_path / "out"
    out.mkdir()
    (out / "rejected.jsonl").write_text("{}")
    killed(work)
    assert (out / "lock.json").exists() and not (out / "index.json").exists()
    with pytest.raises(ShardError, match="no index.json"):
        open_shards(out)
    (out / "rejected.jsonl").unlink()
    write(out, ids, samples_per_shard=2)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_a_writer_killed_when_all_was_written_leaves_a_whole_set(tmp_path):
    def work():
        writer = ShardWriter(tmp_path / "out")
        writer.add(pair("a"), picture(1), "png", picture(2), "png")
        writer._lock.release = die
        writer.close()

    killed(work)
    assert open_shards(tmp_path / "out").ids == ["a"] and problems(tmp_path / "out") == []
    with pytest.raises(ShardError, match="not empty"):
        ShardWriter(tmp_path / "out")


def test_what_an_earlier_version_left_is_cleaned_and_nothing_else_is(tmp_path):
    (tmp_path / "shard-000000.tar.partial").write_bytes(b"half")
    write(tmp_path, ["a"])
    for name in ("shard-000000.tar", "notes.txt", "other.partial"):
        other = tmp_path / name.partition(".")[0]
        other.mkdir()
        (other / name).write_text("mine")
        (other / "shard-000001.tar.partial").write_text("half")
        with pytest.raises(ShardError, match=f"not empty .it holds {name}.*nothing is overwritten"):
            ShardWriter(other)
        assert (other / name).read_text() == "mine" and not (other / "lock.json").exists()


def test_two_writers_of_one_folder_are_noticed(tmp_path):
    with ShardWriter(tmp_path / "out") as writer:
        writer.add(pair("a"), picture(1), "png", picture(2), "png")
        with pytest.raises(ValueError, match="out is in use: making shards by process"):
            ShardWriter(tmp_path / "out")
    assert open_shards(tmp_path / "out").ids == ["a"]


def test_a_writer_that_lost_its_folder_leaves_it_to_the_other(tmp_path):
    with (
        pytest.raises(ValueError, match="out was taken over by another process"),
        ShardWriter(tmp_path / "out") as writer,
    ):
        writer.add(pair("a"), picture(1), "png", picture(2), "png")
        (tmp_path / "out" / "shard-000000.tar.partial").unlink()
        (tmp_path / "out" / "shard-000000.tar.partial").write_bytes(b"the other's")
        writer._lock._lost = True
    assert (tmp_path / "out" / "shard-000000.tar.partial").read_bytes() == b"the other's"


@pytest.mark.slow
def test_make_shards_killed_at_any_moment_ends_with_the_same_set(tmp_path):
    command = [
        sys.executable, "tools/make_shards.py", "--format", "synthetic", "--input", "default", "--count", "400",
        "--samples-per-shard", "20", "--output",
    ]  # fmt: skip
    run = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    began = time.monotonic()
    assert run([*command, tmp_path / "whole"]).returncode == 0
    seconds = time.monotonic() - began
    for number in range(8):
        process = subprocess.Popen([*command, tmp_path / "out"], cwd=ROOT, stderr=subprocess.DEVNULL)
        time.sleep(seconds * (0.4 + 0.07 * number))
        process.kill()
        process.wait()
        if (tmp_path / "out" / "index.json").exists():
            break
        assert list((tmp_path / "out").glob("*")) or number < 3
    done = run([*command, tmp_path / "out"])
    assert done.returncode == 0 or "not empty (it holds index" in done.stderr
    assert open_shards(tmp_path / "out").fingerprint == open_shards(tmp_path / "whole").fingerprint
    assert problems(tmp_path / "out") == [] and not list((tmp_path / "out").glob("*.partial"))
    both = [subprocess.Popen([*command, tmp_path / "both"], cwd=ROOT, stderr=subprocess.PIPE) for _ in range(2)]
    ends = sorted((process.wait(), process.stderr.read()) for process in both)
    assert [code for code, _ in ends] == [0, 1] and b"error: " in ends[1][1]
    assert open_shards(tmp_path / "both").fingerprint == open_shards(tmp_path / "whole").fingerprint


# Refusals of the reader


def test_missing_index(folder):
    (folder / "index.json").unlink()
    with pytest.raises(ShardError, match=r"no index.json: make the folder with editcaption shards.*--rebuild-index"):
        open_shards(folder)
    with pytest.raises(ShardError, match="no such folder"):
        open_shards(folder / "nowhere")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda index: index.update(schema=3), "index schema is 3, this version reads 1 and 2: run .*--rebuild-index"),
        (lambda index: index.pop("samples"), "damaged .KeyError: 'samples'"),
        (lambda index: index.update(samples=[]), "lists no samples"),
        (lambda index: index["samples"][0].update(shard=9), "sample 'a' lies in shard 9 of 3"),
        (lambda index: index["samples"][0]["source"].update(offset=10**9), "'a.src.png' lies outside its shard"),
        (lambda index: index["samples"][0]["source"].update(offset="0"), "damaged .TypeError"),
        (lambda index: index["samples"][0]["target"].pop("width"), "'a.tgt.png' has no width and height"),
        (lambda index: index["shards"][0].update(name="../x.tar"), "'../x.tar' is not a bare file name"),
    ],
)
def test_damaged_index(folder, change, message):
    edit_index(folder, change)
    with pytest.raises(ShardError, match=message):
        open_shards(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff"])
def test_index_that_is_no_index(folder, content):
    (folder / "index.json").write_bytes(content)
    with pytest.raises(ShardError, match="not valid JSON|index schema is None"):
        open_shards(folder)


def test_missing_and_truncated_tars(folder):
    tar = folder / "shard-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:1500])
    with pytest.raises(ShardError, match=rf"shard-000001.tar: 1500 bytes, index.json says {len(whole)}: .* truncated"):
        open_shards(folder)
    found = "\n".join(problems(folder))
    assert "shard-000001.tar: " in found and "ends past the end of shard-000001.tar" in found
    tar.unlink()
    with pytest.raises(ShardError, match="shard-000001.tar: missing, though index.json lists it"):
        open_shards(folder)
    (problem,) = problems(folder)
    shards, samples = (index := load_index(folder)).shards, index.samples
    assert re.fullmatch(rf"shard-000001\.tar: .*: missing, though .* anew \(\d of {len(samples)} pairs\)", problem)
    assert len(list(verify(folder))) == 1 + len(shards) + len(samples), "a step for each sample"


def test_a_tar_truncated_under_an_open_reader(folder):
    reader = open_shards(folder)
    os.truncate(folder / "shard-000000.tar", 600)
    with pytest.raises(ShardError, match="sample 'a' ends past the end of the file: the tar was truncated"):
        reader[0]


def test_json_that_broke_after_indexing(folder):
    index = json.loads((folder / "index.json").read_text())
    tar = folder / index["shards"][0]["name"]
    whole = tar.read_bytes()
    tar.write_bytes(whole.replace(b'"id":"a"', b'"id":"a\\'))
    with pytest.raises(ShardError, match="json of sample 'a' is not valid JSON"):
        open_shards(folder)[0]
    tar.write_bytes(whole.replace(b'"category":"semantic"', b'"category":"semantik"', 1))
    with pytest.raises(RecordError, match="json of sample 'a': field 'category' is 'semantik'"):
        open_shards(folder)[0]


ODD_VALUES = [
    None, True, 0, -1, 512, 0.5, 10**30, "", "../x.tar", "/etc/passwd", "a\x1b[31m", "b.src.png", [], {}, float("nan"),
    "\ud83d",
]  # fmt: skip


def places(value, path=()):
    """The path of each field and element of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def changed(value, path, new):
    value = copy.deepcopy(value)
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


def test_each_field_of_the_index_may_hold_anything(tmp_path):
    folder = write(tmp_path / "set", ["a"])
    index = json.loads((write_old_index(folder) / "index.json").read_text())
    ours = (ShardError, RecordError, ImageError)
    for path in places(index):
        for value in ODD_VALUES:
            (folder / "index.json").write_text(json.dumps(changed(index, path, value)))
            try:
                reader = open_shards(folder)
            except ShardError as error:
                assert "\n" not in str(error) and "\x1b" not in str(error) and "index.json" in str(error)
                continue
            for i in range(len(reader)):
                try:
                    assert min(*reader.meta(i).source_size, *reader.meta(i).target_size) > 0
                    assert reader[i].pair.id == "a"
                except ours:
                    pass
            if value is None or isinstance(value, str):
                assert all("\x1b" not in line for line in problems(folder))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda index: index["samples"][0]["source"].update(width=0), "width is 0, expected a whole number from 1"),
        (lambda index: index["samples"][0]["source"].update(width=10**30), "width is 10*, expected a whole number"),
        (lambda index: index["samples"][0]["source"].update(width=90_000_000), "90000000 x 6 pixels, more than"),
        (lambda index: index["samples"][0]["json"].update(offset=512.5), "offset is 512.5, expected int"),
        (lambda index: index["samples"][0].update(id="\x1b[31ma"), r"id '\\x1b\[31ma' is not an id of letters"),
        (lambda index: index["samples"][0]["json"].update(name="../a"), "'../a' is not the name of a json member"),
        (lambda index: index["shards"][0].update(samples=True), "samples is True, expected int"),
        (lambda index: index["shards"][0].update(name="/etc/passwd"), "'/etc/passwd' is not a bare file name"),
        (lambda index: index["shards"].append(index["shards"][0]), "one shard is listed twice"),
        (lambda index: index.update(fingerprint=7), "fingerprint is 7, expected str"),
        (lambda index: index["samples"].append(7), "expected an object, found int"),
        (lambda index: index["samples"][0].update(more=1), "unknown field 'more'"),
    ],
)
def test_an_index_of_other_types_is_one_sentence(folder, change, message):
    edit_index(folder, change)
    with pytest.raises(ShardError, match=f"index.json: damaged .*{message}.*: make the folder with"):
        open_shards(folder)


def test_an_index_of_gigabytes_is_refused_before_it_is_read(folder):
    os.truncate(folder / "index.json", 6 << 30)  # a hole: no disk is used
    with pytest.raises(
        ShardError, match="index.json: 6442450944 bytes, more than the 536870912 that an index may have"
    ):
        open_shards(folder)


def test_a_member_larger_than_any_is_refused_before_it_is_read(tmp_path):
    folder = write(tmp_path / "set", ["a"])
    tar = folder / "shard-000000.tar"
    os.truncate(tar, 6 << 30)  # a hole: no disk is used
    for part, message in (("source", "more than the 536870912"), ("json", "more than the 4194304")):
        index = json.loads((write_old_index(folder) / "index.json").read_text())
        index["shards"][0]["bytes"] = 6 << 30
        index["samples"][0][part]["bytes"] = 5 << 30
        (folder / "index.json").write_text(json.dumps(index))
        with pytest.raises(ShardError, match=message):
            open_shards(folder)
        index["samples"][0][part]["bytes"] = 9
        (folder / "index.json").write_text(json.dumps(index))


# The full check


def test_verify_finds_one_flipped_byte_in_each_member(folder):
    index = json.loads((write_old_index(folder) / "index.json").read_text())
    sample = index["samples"][2]
    tar = folder / index["shards"][sample["shard"]]["name"]
    whole = tar.read_bytes()
    for part in ("source", "target", "json"):
        damaged = bytearray(whole)
        damaged[sample[part]["offset"] + sample[part]["bytes"] // 2] ^= 0x10
        tar.write_bytes(damaged)
        found = problems(folder)
        assert f"{tar.name}: sha256 differs from the index: the file was damaged or changed" in found
        assert f"c-1: {sample[part]['name']}: sha256 differs from the index: damaged or changed" in found
        assert all(line.startswith(("c-1: ", tar.name)) for line in found)
    tar.write_bytes(whole)
    assert problems(folder) == []


def test_verify_checks_the_index_against_the_content(folder):
    def change(index):
        index["samples"][0]["source"]["width"] = 99
        sample = index["samples"][1]
        sample["id"] = "other"
        for which in ("source", "target", "json"):
            sample[which]["name"] = sample[which]["name"].replace("b.", "other.", 1)
        index["shards"][2]["samples"] = 7

    edit_index(folder, change)
    (folder / "stray.tar").write_bytes(b"")
    found = "\n".join(problems(folder))
    for text in (
        "index.json: the fingerprint doesn't match",
        "index.json: shard-000002.tar holds 7 samples, but 1 are listed",
        "index.json: stray.tar is not in the index",
        "a: a.src.png: 8 x 6, the index says 99 x 6",
        "other: other.json: its id is 'b', the index says 'other'",
    ):
        assert text in found


def test_verify_decodes_images_in_full(tmp_path):
    data = picture(1, (300, 300))
    with ShardWriter(tmp_path / "set") as writer:
        writer.add(pair("a"), data[:-30], "png", data, "png")  # the header is whole, the pixels aren't
    assert len(problems(tmp_path / "set")) == 1
    assert problems(tmp_path / "set")[0].startswith("a: a.src.png: truncated or damaged image")


# The index made anew


def test_rebuilding_gives_the_same_index(folder):
    before = (folder / "index.json").read_bytes()
    (folder / "index.json").unlink()
    seen = []
    rebuild_index(folder, progress=seen.append)
    assert (folder / "index.json").read_bytes() == before and len(seen) == 3


def test_folders_of_plain_webdataset_are_indexed(tmp_path):
    with webdataset.ShardWriter(str(tmp_path / "x-%02d.tar"), maxcount=2, verbose=0) as sink:
        for name in "abc":
            row = pair(name).to_json()
            sink.write({"__key__": name, "src.png": picture(1), "tgt.png": picture(2, (4, 4)), "json": row})
    rebuild_index(tmp_path)
    reader = open_shards(tmp_path)
    assert reader.ids == ["a", "b", "c"] and reader[2].pair == pair("c") and reader.meta(1).target_size == (4, 4)
    assert problems(tmp_path) == []


def make_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def whole_sample(name):
    record = json.dumps(pair(name).to_json()).encode()
    return [(f"{name}.src.png", picture(1)), (f"{name}.tgt.png", picture(2)), (f"{name}.json", record)]


def test_rebuilding_refuses_what_it_cannot_index(tmp_path):
    path = tmp_path / "x.tar"
    good = whole_sample("a")
    for members, message in (
        (good[:2], "sample 'a' has no json member"),
        ([*good, ("a.mask.png", picture(3))], "'a.mask.png' is not part of the layout"),
        ([*good, ("deep/b.src.png", picture(3))], "'deep/b.src.png' is not part of the layout"),
        ([*good, ("a.src.jpg", picture(3))], "sample 'a' has its source twice"),
        ([("b.json", good[2][1]), *whole_sample("b")[:2]], "its id is 'a', its key is 'b'"),
        ([*good[:2], ("a.json", b"{not json")], "a.json: not valid JSON"),
        ([("a.src.png", b""), *good[1:]], "a.src.png: empty, 0 bytes"),
        ([], "hold no samples"),
    ):
        make_tar(path, members)
        with pytest.raises(ValueError, match=message):
            rebuild_index(tmp_path)
    make_tar(path, good)
    make_tar(tmp_path / "y.tar", good)
    with pytest.raises(ShardError, match="y.tar: id 'a' is already in the set"):
        rebuild_index(tmp_path)
    assert not (tmp_path / "index.json").exists()
    with pytest.raises(ShardError, match="no .*tar files"):
        rebuild_index(tmp_path.parent / tmp_path.name / "..")


def tar_header(name, size, kind=b"0"):
    """A header block as GNU tar writes it; `size` may be larger than eight octal digits, or negative."""
    block = bytearray(512)
    block[: len(name)], block[100:108], block[156:157], block[257:265] = name, b"0000644\0", kind, b"ustar  \0"
    in_octal = 0 <= size < 8**11
    block[124:136] = b"%011o\0" % size if in_octal else (size % 256**12 | (1 << 95)).to_bytes(12, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SPARSE = tar_header(b"a.src.png", 6 << 30)
HOSTILE_TARS = {
    "a picture of 6 GB": (SPARSE, 512 + (6 << 30) + 1024, "more than the 536870912 that its source may have"),
    "json of 1.5 GB": (
        tar_header(b"a.json", 3 << 29), (3 << 29) + 1536, "more than the 4194304 that its json may have",
    ),
    "declares 2^60": (tar_header(b"a.src.png", 1 << 60), 1536, "is cut off"),
    "negative size": (tar_header(b"a.src.png", -512), 2560, "is cut off"),
    "long name of -512": (tar_header(b"././@LongLink", -512, b"L"), 2560, "a header of -512 bytes"),
    "long name of 8 GB": (tar_header(b"././@LongLink", 1 << 33, b"L"), 1 << 34, "a header of 8589934592 bytes"),
    "long name of 2^60": (tar_header(b"././@LongLink", 1 << 60, b"L"), 2560, "damaged or truncated tar"),
    "attributes of 2^60": (tar_header(b"x", 1 << 60, b"x"), 2560, "damaged or truncated tar"),
    "attributes that say -1": (
        tar_header(b"x", 11, b"x") + b"11 size=-1\n".ljust(512, b"\0") + tar_header(b"a.src.png", 5), 3584,
        "is cut off",
    ),
    "long names without end": (
        (tar_header(b"././@LongLink", 9, b"L") + b"a.src.png".ljust(512, b"\0")) * 3000, 0, "recursion",
    ),
    "zeros": (b"", 4 << 30, "goes on after the tar's end mark"),
    "a link": (tar_header(b"a.src.png", 0, b"2"), 1536, "not part of the layout"),
    "a device": (tar_header(b"a.src.png", 0, b"3"), 1536, "not part of the layout"),
    "an old sparse member": (tar_header(b"a.src.png", 0, b"S"), 1536, "not part of the layout|damaged"),
    "an escape": (tar_header(b"\x1b[31m.json", 0), 1536, r"'\\x1b\[31m.json' is not part of the layout"),
}  # fmt: skip


@pytest.mark.parametrize("content, size, message", HOSTILE_TARS.values(), ids=HOSTILE_TARS)
def test_a_tar_that_claims_what_it_does_not_hold_is_one_sentence(tmp_path, content, size, message):
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    os.truncate(path, max(size, len(content)))  # a hole: no disk is used
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ShardError, match=message) as caught:
        rebuild_index(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 << 10  # KiB
    assert "\n" not in str(caught.value)


def test_two_tars_in_one_file_are_not_read_as_the_first_alone(tmp_path):
    make_tar(tmp_path / "b.tar", whole_sample("b"))
    make_tar(tmp_path / "a.tar", whole_sample("a"))
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes() + (tmp_path / "b.tar").read_bytes())
    with pytest.raises(ShardError, match="a.tar: the file goes on after the tar's end mark"):
        rebuild_index(tmp_path)


@settings(max_examples=30, deadline=None)
@given(strategies.data())
def test_a_mutated_tar_is_read_or_refused_in_one_sentence(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tar"
        make_tar(path, whole_sample("a"))
        content = bytearray(path.read_bytes()[:6144])
        for _ in range(data.draw(strategies.integers(1, 6))):
            place = data.draw(strategies.sampled_from([0, 512, 1024])) + data.draw(strategies.integers(0, 511))
            content[place] = data.draw(strategies.integers(0, 255))
        for at in (0, 1024, 2048):  # with checksums that agree
            content[at + 148 : at + 156] = b" " * 8
            content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
        path.write_bytes(content)
        try:
            rebuild_index(folder)
        except (ShardError, ImageError, RecordError) as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("part", ["header", "content", "between", "end"])
def test_rebuilding_refuses_truncated_tars(folder, part):
    index = json.loads((write_old_index(folder) / "index.json").read_text())
    tar, last = folder / "shard-000001.tar", index["samples"][3]["json"]
    end = last["offset"] + -(-last["bytes"] // 512) * 512
    length = {
        "header": last["offset"] - 200,
        "content": last["offset"] + 10,
        "between": last["offset"] - 512,
        "end": end,
    }
    os.truncate(tar, length[part])
    before = (folder / "index.json").read_bytes()
    with pytest.raises(ShardError, match="truncated|no json member"):
        rebuild_index(folder)
    assert (folder / "index.json").read_bytes() == before
    tar.write_bytes(b"this is not a tar file at all" * 100)
    with pytest.raises(ShardError, match="damaged or truncated tar"):
        rebuild_index(folder)


def _exchange(index, members):
    first, second = members
    for name in ("offset", "bytes", "sha256", "width", "height"):
        first[name], second[name] = second[name], first[name]


@pytest.mark.parametrize(
    "edit",
    [
        lambda index: _exchange(index, [index["samples"][0][which] for which in ("source", "target")]),
        lambda index: _exchange(index, [sample["target"] for sample in index["samples"][:2]]),
        lambda index: (index["samples"].pop(), index["shards"][-1].update(samples=0)),
        lambda index: index["samples"][0]["json"].update(offset=index["samples"][1]["json"]["offset"]),
    ],
)
def test_an_edited_index_is_told_though_its_fingerprint_is_right(folder, edit):
    path = write_old_index(folder) / "index.json"
    index = json.loads(path.read_text())
    edit(index)
    path.write_text(json.dumps(index))
    index["fingerprint"] = load_index(folder).samples.fingerprint()
    path.write_text(json.dumps(index))
    assert any("the index does not list the members as the tar holds them ('" in line for line in problems(folder))


def test_members_of_another_sample_are_refused(folder):
    path = write_old_index(folder) / "index.json"
    index = json.loads(path.read_text())
    first, second = index["samples"][:2]
    first["target"], second["target"] = second["target"], first["target"]
    path.write_text(json.dumps(index))
    with pytest.raises(ShardError, match="'b.tgt.png' is not the name of a target member of sample 'a'"):
        open_shards(folder)


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_plain_file_is_not_waited_for(folder, kind):
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}[kind]
    tar = folder / "shard-000001.tar"
    tar.unlink()
    make(tar)
    words = "a folder, expected a file" if kind == "folder" else "a pipe or device, expected a plain file"
    assert any(f"shard-000001.tar: {words}" in line for line in problems(folder))
    with pytest.raises(ShardError, match=words):
        open_shards(folder)
    with pytest.raises((OSError, ShardError)):
        rebuild_index(folder)
    (folder / "index.json").unlink()
    make(folder / "index.json")
    with pytest.raises(OSError, match=words):
        open_shards(folder)


@pytest.mark.parametrize(
    "change",
    [{"instruction": "😀"}, {"chosen": "\x1f", "rejected": "x"}, {"rejected": "x"}, {"severity": 2.0}, {"id": "a.b"}],
)
def test_a_changed_copy_that_no_reader_would_take_is_not_written(tmp_path, change):
    """`model_copy` checks nothing."""
    with pytest.raises(RecordError), ShardWriter(tmp_path / "set") as writer:
        writer.add(pair("a").model_copy(update=change), picture(1), "png", picture(2), "png")
    assert not (tmp_path / "set").exists()
