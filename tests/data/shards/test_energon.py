"""What Megatron-Energon reads beside the tars: the form of its own `prepare`, and, where it is installed, itself."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
import tarfile

import pytest
import yaml

from editcaption_mega.cli import exit_code
from editcaption_mega.commands import validate_shards
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.energon import META, write_energon
from editcaption_mega.data.shards.reader import ShardError, ShardWriter, open_shards, rebuild_index
from editcaption_mega.data.synthetic import WorldSettings, render_pair

LONG = "x" * 180  # longer than the name of a tar's header


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("energon") / "set"
    with ShardWriter(folder, samples_per_shard=3) as writer:
        for index in range(7):
            rendered = render_pair(WorldSettings(), 3, index)
            pair = rendered.pair.model_copy(update={"id": LONG if index == 1 else f"p{index}"})
            writer.add(pair, encode_png(rendered.source), "png", encode_png(rendered.target), "png")
    write_energon(folder)
    return folder


def rows(folder, query):
    with sqlite3.connect(folder / META / "index.sqlite") as tables:
        return tables.execute(query).fetchall()


def test_every_sample_is_where_the_tables_say(folder):
    shards = open_shards(folder)
    names = [f"shard-{k:06d}.tar" for k in range(3)]
    samples = rows(folder, "SELECT tar_file_id, sample_key, sample_index, byte_offset, byte_size FROM samples")
    assert [(row[0], row[2]) for row in samples] == [(k // 3, k % 3) for k in range(7)]
    assert [row[1] for row in samples] == list(shards.ids)
    for tar, key, place, offset, size in samples:
        with open(folder / names[tar], "rb") as file:
            file.seek(offset)
            part = file.read(size)
        (folder / "part.tar").write_bytes(part + bytes(1024))
        with tarfile.open(folder / "part.tar") as alone:  # the bytes of a sample are a tar of their own
            assert alone.getnames() == [f"{key}.src.png", f"{key}.tgt.png", f"{key}.json"]
        (folder / "part.tar").unlink()
        query = f"SELECT part_name, content_byte_offset, content_byte_size FROM sample_parts WHERE tar_file_id = {tar}"
        parts = {name: (at, count) for name, at, count in rows(folder, f"{query} AND sample_index = {place}")}
        assert set(parts) == {"src.png", "tgt.png", "json"}
        with open(folder / names[tar], "rb") as file:
            file.seek(parts["src.png"][0])
            assert file.read(parts["src.png"][1]) == shards.picture(shards.ids.index(key), "source")
    for tar, name in enumerate(names):
        content = (folder / name).with_suffix(".tar.idx").read_bytes()
        places = struct.unpack(f"<{len(content) // 8}Q", content)
        mine = [row for row in samples if row[0] == tar]
        assert list(places) == [row[3] for row in mine] + [mine[-1][3] + mine[-1][4]]


def test_the_files_say_what_there_is(folder):
    meta = folder / META
    assert sorted(path.name for path in meta.iterdir()) == [
        ".info.json", "dataset.yaml", "index.sqlite", "index.uuid", "split.yaml"
    ]  # fmt: skip
    counts = {"shard-000000.tar": 3, "shard-000001.tar": 3, "shard-000002.tar": 1}
    assert json.loads((meta / ".info.json").read_text())["shard_counts"] == counts
    split = yaml.safe_load((meta / "split.yaml").read_text())
    assert split == {"split_parts": {"train": list(counts), "val": [], "test": []}, "exclude": []}
    dataset = yaml.safe_load((meta / "dataset.yaml").read_text())
    assert dataset == {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"}


def test_writing_again_gives_the_same(folder):
    before = {path.name: path.read_bytes() for path in (folder / META).iterdir() if path.name != "index.sqlite"}
    write_energon(folder)
    assert {name: (folder / META / name).read_bytes() for name in before} == before
    assert len(rows(folder, "SELECT * FROM samples")) == 7


def test_a_sample_in_two_pieces_is_refused(folder, tmp_path):
    with tarfile.open(folder / "shard-000000.tar") as tar, tarfile.open(tmp_path / "a.tar", "w") as other:
        members = sorted(tar.getmembers(), key=lambda member: member.name.partition(".")[2])
        for member in members:
            other.addfile(member, tar.extractfile(member))
    rebuild_index(tmp_path)
    with pytest.raises(ShardError, match="does not stand in one piece"):
        write_energon(tmp_path)


def test_the_command_writes_them_for_a_sound_folder_alone(folder, tmp_path, capsys):
    with ShardWriter(tmp_path / "set") as writer:
        rendered = render_pair(WorldSettings(), 3, 0)
        writer.add(rendered.pair, encode_png(rendered.source), "png", encode_png(rendered.target), "png")
    assert exit_code(validate_shards.main, [str(tmp_path / "set"), "--to-energon"]) == 0
    assert "Megatron-Energon reads the folder" in capsys.readouterr().out and (tmp_path / "set" / META).is_dir()
    tar = tmp_path / "set/shard-000000.tar"
    (tmp_path / "set" / META / "index.sqlite").unlink()
    tar.write_bytes(tar.read_bytes().replace(b"instruction", b"instructioN"))
    assert exit_code(validate_shards.main, [str(tmp_path / "set"), "--to-energon"]) == 1
    assert not (tmp_path / "set" / META / "index.sqlite").exists()


READ = """
import sys
from megatron.energon import Cooker, DefaultTaskEncoder, Sample, WorkerConfig, basic_sample_keys, edataclass, get_loader
from megatron.energon import get_train_dataset, stateless

@edataclass
class Named(Sample):
    name: str

@stateless
def cook(sample):
    return Named(**basic_sample_keys(sample), name=sample["json"]["id"])

class Encoder(DefaultTaskEncoder):
    cookers = [Cooker(cook)]

config = WorkerConfig(rank=0, world_size=1, num_workers=0)
options = dict(shuffle_buffer_size=None, max_samples_per_sequence=None, worker_config=config, repeat=False)
dataset = get_train_dataset(sys.argv[1], batch_size=1, task_encoder=Encoder(), **options)
for batch in get_loader(dataset):
    print(*batch.name)
"""


def test_energon_reads_every_pair(folder):
    """In the Python that has it: this one, or that of EDITCAPTION_ENERGON_PYTHON."""
    python = os.environ.get("EDITCAPTION_ENERGON_PYTHON", sys.executable)
    found = subprocess.run([python, "-c", "import megatron.energon"], capture_output=True, text=True)
    if found.returncode:
        pytest.skip("megatron-energon is not installed")
    done = subprocess.run([python, "-c", READ, str(folder)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == sorted(open_shards(folder).ids)
