import copy
import io
import json
import multiprocessing
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
import webdataset
from PIL import Image

from editcaption_mega.data import open_shards
from editcaption_mega.data.images import ImageError, encode_png
from editcaption_mega.data.shards import DuplicateIdError, ShardError, ShardWriter, rebuild_index, verify
from editcaption_mega.records import EditPair, RecordError


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
    path = folder / "index.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_round_trip(folder):
    names = sorted(path.name for path in folder.iterdir())
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
    monkeypatch.setattr("editcaption_mega.data.shards._MOST_OPEN_FILES", 1)
    with open_shards(folder) as few:
        before = len(os.listdir("/proc/self/fd"))
        assert _read_all(few) == reader.ids
        assert len(os.listdir("/proc/self/fd")) == before + 1


# Refusals of the writer


def test_a_folder_that_holds_something_is_refused(folder, tmp_path):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ShardError, match="not empty .it holds index.json and more., and nothing is overwritten"):
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

    monkeypatch.setattr("editcaption_mega.data.shard_writer.write_index", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "set", ["a", "b"], samples_per_shard=1)
    assert not (tmp_path / "set").exists()


# Refusals of the reader


def test_missing_index(folder):
    (folder / "index.json").unlink()
    with pytest.raises(ShardError, match=r"no index.json: make the folder with tools/make_shards.py.*--rebuild-index"):
        open_shards(folder)
    with pytest.raises(ShardError, match="no such folder"):
        open_shards(folder / "nowhere")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda index: index.update(schema=2), "index schema is 2, this version reads 1: run .*--rebuild-index"),
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
    assert any(problem == "c-1: shard-000001.tar is missing" for problem in problems(folder))


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


# The full check


def test_verify_finds_one_flipped_byte_in_each_member(folder):
    index = json.loads((folder / "index.json").read_text())
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
        index["samples"][1]["id"] = "other"
        index["shards"][2]["samples"] = 7

    edit_index(folder, change)
    (folder / "stray.tar").write_bytes(b"")
    found = "\n".join(problems(folder))
    for text in (
        "index.json: the fingerprint doesn't match",
        "index.json: shard-000002.tar holds 7 samples, but 1 are listed",
        "index.json: stray.tar is not in the index",
        "a: a.src.png: 8 x 6, the index says 99 x 6",
        "other: b.json: its id is 'b', the index says 'other'",
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


@pytest.mark.parametrize("part", ["header", "content", "between", "end"])
def test_rebuilding_refuses_truncated_tars(folder, part):
    index = json.loads((folder / "index.json").read_text())
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
