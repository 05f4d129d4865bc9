"""Exported sets: every form read by whoever is meant to read it, and back by our own importers, equal."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from editcaption_mega.curation.export.export_forms import FORMS
from editcaption_mega.curation.export.export_pairs import export_pairs
from editcaption_mega.data import open_shards
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.shards.writer import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.settings import SettingsError
from tests.helpers import ROOT

HOSTILE = "Add <script>alert('x')</script> & a | pipe, \"quotes\" `code` 和 emoji 🐱"


def encoded(image, kind):
    out = io.BytesIO()
    image.save(out, kind, quality=90)
    return out.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Pictures of three formats; an instruction, a preference, both; a license or none."""
    folder = tmp_path_factory.mktemp("export") / "shards"
    with ShardWriter(folder, samples_per_shard=3) as writer:
        for i in range(7):
            made = render_pair(WorldSettings(), 5, i)
            change = {"instruction": HOSTILE if i == 2 else made.pair.instruction}
            provenance = {"caption": {"model": "vlm-<b>1</b>", "text": HOSTILE, "seed": i}, "row": i}
            if i != 4:
                provenance["license"] = "CC0-1.0"
            if i >= 5:
                change |= {"chosen": "Turn it left.", "rejected": "Turn it right.", "failure_modes": ["orientation"]}
            if i == 6:
                change["instruction"] = None
            pair = made.pair.model_copy(update=change | {"provenance": provenance})
            kind, extension = (("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"))[i % 3]
            writer.add(pair, encoded(made.source, kind), extension, encode_png(made.target), "png")
    return open_shards(folder)


def equal(one, other):
    """The same pairs, records and bytes, in the same order."""
    assert one.ids == other.ids
    for a, b in zip((one[i] for i in range(len(one))), (other[i] for i in range(len(other))), strict=True):
        assert (a.pair, a.source_bytes, a.target_bytes) == (b.pair, b.source_bytes, b.target_bytes)


def imported(kind, path, output):
    report = ingest(FORMATS[kind].read(str(path), ImportOptions()), output)
    assert report.rejected == 0
    return open_shards(output)


def test_jsonl_comes_back_equal(shards, tmp_path):
    export_pairs(shards, "jsonl", tmp_path / "out")
    equal(shards, imported("jsonl", tmp_path / "out/pairs.jsonl", tmp_path / "back"))


def test_parquet_comes_back_equal_and_has_the_picture_form_of_datasets(shards, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    export_pairs(shards, "parquet", tmp_path / "out")
    equal(shards, imported("exported", tmp_path / "out", tmp_path / "back"))
    # As a folder of the hub: split and files come from the card's front matter.
    loaded = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert isinstance(loaded.features["input_image"], datasets.Image)
    assert loaded.column_names[:4] == ["id", "input_image", "edit_prompt", "edited_image"]
    assert list(loaded["id"]) == shards.ids
    for i, row in enumerate(loaded):
        sample = shards[i]
        assert row["edit_prompt"] == (sample.pair.instruction or sample.pair.chosen)
        for name, data in (("input_image", sample.source_bytes), ("edited_image", sample.target_bytes)):
            assert row[name].convert("RGB").tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def test_parquet_of_many_files_is_one_set(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("editcaption_mega.curation.export.export_forms._ROWS_PER_GROUP", 2)
    monkeypatch.setattr("editcaption_mega.curation.export.export_forms._BYTES_PER_FILE", 1)
    export_pairs(shards, "parquet", tmp_path / "out")
    assert len(list((tmp_path / "out/data").iterdir())) == 4
    equal(shards, imported("exported", tmp_path / "out", tmp_path / "back"))


def test_webdataset_is_read_by_the_library_and_by_us(shards, tmp_path):
    import webdataset

    export_pairs(shards, "webdataset", tmp_path / "out")
    equal(shards, open_shards(tmp_path / "out"))
    tars = [str(path) for path in sorted((tmp_path / "out").glob("*.tar"))]
    samples = list(webdataset.WebDataset(tars, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == shards.ids
    assert [json.loads(sample["json"])["id"] for sample in samples] == shards.ids
    assert samples[0]["src.png"] == shards[0].source_bytes


def test_instruct_pix2pix_folders_as_its_trainer_reads_them(shards, tmp_path):
    """The way of edit_dataset.py: a seed of a folder, its prompt, its two pictures."""
    export_pairs(shards, "instruct-pix2pix", tmp_path / "out")
    seeds = json.loads((tmp_path / "out/seeds.json").read_text())
    assert len(seeds) == len(shards)
    for i, (name, numbers) in enumerate(seeds):
        folder, sample = tmp_path / "out" / name, shards[i]
        text = sample.pair.instruction or sample.pair.chosen
        assert json.loads((folder / "prompt.json").read_text())["edit"] == text
        pictures = [Image.open(folder / f"{numbers[0]}_{k}.jpg") for k in range(2)]
        assert all(picture.format == "JPEG" for picture in pictures)
        if i % 3 == 1:
            assert (folder / "0_0.jpg").read_bytes() == sample.source_bytes, "a JPEG stays as it is"
    assert "12 pictures were encoded as JPEG" in (tmp_path / "out/README.md").read_text(), "5 sources, 7 targets"


def test_the_card_counts_and_nothing_in_it_is_markup(shards, tmp_path):
    export_pairs(shards, "parquet", tmp_path / "out", survival={"kept": 7, "of": 9})
    card = (tmp_path / "out/README.md").read_text()
    front = card.split("---")[1]
    assert 'license: "other"' in front and "path: data/*.parquet" in front
    assert "7 pairs of a source and a target picture (6 with instruction, 2 with chosen and rejected)" in card
    assert "| CC0-1.0 | 6 | 85.7 % |" in card and "| none given | 1 | 14.3 % |" in card
    assert shards.fingerprint in card and '"kept": 7' in card
    assert "<script>" not in card and "<b>" not in card and "&lt;script&gt;" in card
    assert "| `caption.model` | pairs | share |" in card and "| vlm-&lt;b&gt;1&lt;/b&gt; | 7 | 100.0 % |" in card


def test_a_license_that_is_not_wanted_is_refused_and_nothing_stays(shards, tmp_path):
    name = shards.ids[4]
    with pytest.raises(ValueError, match=f"pair {name} has no license in its provenance, expected one of cc0-1.0"):
        export_pairs(shards, "jsonl", tmp_path / "out", licenses=["cc0-1.0"])
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").mkdir()
    with pytest.raises(SettingsError, match="exists already, and nothing is overwritten"):
        export_pairs(shards, "jsonl", tmp_path / "out")


def test_an_output_that_cannot_be_made_is_named_itself(shards, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"file/out cannot be made \(Not a directory\): name an output in a folder"):
        export_pairs(shards, "jsonl", tmp_path / "file/out")


@pytest.mark.parametrize("form", list(FORMS))
def test_an_export_that_is_killed_begins_again(shards, tmp_path, form, monkeypatch):
    """At any moment: there is a whole folder or none."""

    def killed(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("editcaption_mega.curation.export.export_pairs.rename_whole", killed)
    with pytest.raises(KeyboardInterrupt):
        export_pairs(shards, form, tmp_path / "out")
    monkeypatch.undo()
    assert not (tmp_path / "out").exists()
    export_pairs(shards, form, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_an_export_killed_after_its_last_step_leaves_nothing_beside_the_output(shards, tmp_path):
    """Its folder is whole then, and the next one is refused; the lock of a process that is gone goes with it."""
    export_pairs(shards, "jsonl", tmp_path / "out")
    hold = (
        "from editcaption_mega.lock import FolderLock; import os, sys; FolderLock(sys.argv[1], 'exporting').acquire()"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", f"{hold}; os._exit(9)", str(tmp_path / ".out.lock")]
    assert subprocess.run(command, env=environment).returncode == 9
    assert (tmp_path / ".out.lock/lock.json").exists()
    with pytest.raises(SettingsError, match="exists already, and nothing is overwritten"):
        export_pairs(shards, "jsonl", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_the_tool_killed_with_9_and_started_again(shards, tmp_path):
    command = [sys.executable, str(ROOT / "tools/curate.py"), "export", "--shards", str(shards.directories[0])]
    command += ["--format", "jsonl", "--output", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not Path(f"{tmp_path}/out.partial").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if (tmp_path / "out").exists() and done.returncode:  # it was faster than the kill
        assert "exists already" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "7 pairs as jsonl" in done.stdout and "1 x none given" in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    equal(shards, imported("jsonl", tmp_path / "out/pairs.jsonl", tmp_path / "back"))
