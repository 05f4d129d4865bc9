"""Whole conversions: killed and begun again, by several processes and ranks, compared with their source."""

import json
import random
import shutil
import sys
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from editcaption_mega import platform
from editcaption_mega.cli import exit_code
from editcaption_mega.conversion import Box, StoreWriter, folder_conversion, store_conversion, verify_checkpoint
from editcaption_mega.conversion.convert import hf_to_megatron, megatron_to_hf
from tests.helpers import ROOT, small_store, tiny, warm
from tests.helpers.ranks import on_ranks

MODEL_FILES = 100_000  # bytes of a file that the tests ask for, so that there are many

# The tool with smaller files than it makes: a kill has something to leave.
TOOL = """
import runpy, sys
from editcaption_mega.conversion import store_conversion
store_conversion.STORE_FILE_BYTES = int(sys.argv.pop(1))
sys.argv[0] = sys.argv.pop(1)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """With experts as [expert, in, out], in bf16."""
    folder = tmp_path_factory.mktemp("model") / "model"
    tiny.hf_model(experts=True, layers=4).save_pretrained(folder)
    path = folder / "model.safetensors"
    turned = {
        name: (tensor.transpose(1, 2) if ".experts." in name else tensor).bfloat16().contiguous()
        for name, tensor in load_file(path).items()
    }
    save_file(turned, path, {"format": "pt"})
    return folder


def tensors(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


def command(tool, *arguments, file_bytes=MODEL_FILES):
    return [sys.executable, "-c", TOOL, str(file_bytes), str(ROOT / f"tools/{tool}.py"), *map(str, arguments)]


def to_store(model, store):
    return command("hf_to_megatron", "--hf", model, "--output", store, "--workers", 2)


def to_folder(store, back):
    return command("megatron_to_hf", "--checkpoint", store, "--output", back, "--workers", 2, "--max-file-gib", 1e-4)


def end_well(words):
    run = warm.run(words)
    assert run.returncode == 0, run.stderr
    return run.stdout


def killed_and_resumed(words, output, kills, draw):
    """Kill the program (-9) at `kills` moments of its work, then let it end -> whether it went on with files."""
    partial = output.with_name(output.name + ".partial")
    while kills:
        process = warm.Popen(words)
        records = partial / "records"
        before = len(list(records.glob("*.json")))
        deadline = time.monotonic() + 120
        # After the next file, and a little: in the middle of one, or between two.
        while len(list(records.glob("*.json"))) <= before and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        time.sleep(draw.random() * 0.01)
        process.kill()
        process.communicate()
        if output.exists():
            shutil.rmtree(output)  # it was quicker: once more from the start
            shutil.rmtree(partial, ignore_errors=True)
        else:
            kills -= 1
    out = end_well(words)
    assert not partial.exists()
    return "goes on, " in out


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_conversion_goes_on_both_ways(model, tmp_path, kills):
    """Bit for bit what an undisturbed one makes, with the files that were there."""
    draw = random.Random(kills)
    store, back = tmp_path / "store", tmp_path / "back"
    assert killed_and_resumed(to_store(model, store), store, -(-kills // 2), draw)
    hf_to_megatron(model, tmp_path / "plain")
    whole = verify_checkpoint(store)
    assert len(list(store.glob("*.safetensors"))) > 5
    plain = verify_checkpoint(tmp_path / "plain")
    assert whole.tensors.keys() == plain.tensors.keys()
    assert all(torch.equal(whole.read(key), plain.read(key)) for key in whole.tensors)
    assert killed_and_resumed(to_folder(store, back), back, kills // 2, draw)
    same(tensors(model), tensors(back))
    assert len(list(back.glob("*.safetensors"))) > 5


def test_two_ranks_share_the_files(model, tmp_path):
    end = [str(ROOT / "tools/hf_to_megatron.py"), "--hf", str(model), "--output", str(tmp_path / "store"), "--verify"]
    warm.run_ranks([*command("hf_to_megatron")[:4], *end], 2)
    back = command(
        "megatron_to_hf", "--checkpoint", tmp_path / "store", "--output", tmp_path / "back", "--max-file-gib", 1e-4
    )
    warm.run_ranks(back, 2)
    same(tensors(model), tensors(tmp_path / "back"))
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 5
    index = json.loads((tmp_path / "back/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors(model).values())


def converted_among_others(rank, model, output):
    hf_to_megatron(model, output)
    return platform.gather(rank)


def test_ranks_that_talk_already_go_on_to_talk(model, tmp_path):
    """Whoever made their groups takes them away, not a conversion that was called between."""
    assert on_ranks(converted_among_others, tmp_path, model, tmp_path / "store") == [[0, 1]] * 2


def test_other_settings_or_another_source_begin_anew(model, tmp_path, monkeypatch, capsys):
    """Files of one are no files of the other."""
    source = shutil.copytree(model, tmp_path / "model")
    monkeypatch.setattr(store_conversion, "STORE_FILE_BYTES", MODEL_FILES)
    stopped = stop_after(monkeypatch, 3)
    for dtype, said in ((None, ""), (torch.float32, "made anew"), (torch.float32, "goes on, 3 of")):
        with pytest.raises(InterruptedError):
            hf_to_megatron(source, tmp_path / "store", dtype=dtype)
        assert said in capsys.readouterr().out
    changed = tensors(source)
    changed["lm_head.weight"] += 1
    save_file(changed, source / "model.safetensors", {"format": "pt"})
    stopped.clear()
    hf_to_megatron(source, tmp_path / "store")
    assert "made anew" in capsys.readouterr().out
    megatron_to_hf(tmp_path / "store", tmp_path / "back")
    same(changed, tensors(tmp_path / "back"))


def stop_after(monkeypatch, count):
    """Have every conversion stop when so many files are there; returns what to clear to let them go on."""
    from editcaption_mega.conversion.jobs.partial_folder import PartialFolder

    make, limit = PartialFolder.make, [count]

    def counted(self, *arguments, **options):
        made = len(list((self.path / "records").glob("*.json")))
        if limit and made >= limit[0]:
            raise InterruptedError(4, "stopped")
        return (yield from make(self, *arguments, **options))

    monkeypatch.setattr(PartialFolder, "make", counted)
    return limit


def test_two_conversions_into_one_folder(model, tmp_path):
    from editcaption_mega.lock import FolderLock

    with (
        FolderLock(tmp_path / "store.partial", "conversion"),
        pytest.raises(ValueError, match="store.partial is in use: conversion by process"),
    ):
        hf_to_megatron(model, tmp_path / "store")


@pytest.mark.parametrize("way", ["store", "folder"])
def test_verify_finds_any_flipped_bit(model, tmp_path, monkeypatch, capsys, way):
    """Anywhere in the weights, the header, the index or beside them; an equal one passes, and nothing is written."""
    monkeypatch.setattr(store_conversion, "STORE_FILE_BYTES", MODEL_FILES)
    hf_to_megatron(model, tmp_path / "store", verify=True)
    megatron_to_hf(tmp_path / "store", tmp_path / "folder", verify=True, max_file_bytes=MODEL_FILES)
    assert capsys.readouterr().out.count("equal to its source") == 2
    output, draw, said = tmp_path / way, random.Random(7), []
    paths = [path for path in sorted(output.rglob("*")) if path.is_file()]
    assert len(paths) > 5

    def compare():
        if way == "store":
            hf_to_megatron(model, output, verify=True)
        else:
            megatron_to_hf(tmp_path / "store", output, verify=True, max_file_bytes=MODEL_FILES)

    for path in [*paths, *draw.choices([path for path in paths if path.suffix == ".safetensors"], k=30)]:
        before = path.read_bytes()
        small_store.flip(path, draw.randrange(8 * len(before)))
        with pytest.raises(ValueError) as refused:
            compare()
        said.append(str(refused.value))
        path.write_bytes(before)
    compare()
    # The folder may be another model's, which nobody should remove.
    assert any(words.endswith("name that one; else convert again into a new --output") for words in said), said
    assert not any(f"remove {output}" in words for words in said)


def test_a_bit_that_flips_before_the_end_is_not_published(model, tmp_path, monkeypatch):
    """What reached the disk is compared, and the next start makes the file that differs again."""
    monkeypatch.setattr(store_conversion, "STORE_FILE_BYTES", MODEL_FILES)
    hf_to_megatron(model, tmp_path / "store")
    finish = folder_conversion._index

    def flip_then_finish(files):
        monkeypatch.setattr(folder_conversion, "_index", finish)  # once
        (path,) = (tmp_path / "back.partial/content").glob("model-00002-*")
        small_store.flip(path, 8 * path.stat().st_size - 100)
        return finish(files)

    monkeypatch.setattr(folder_conversion, "_index", flip_then_finish)
    with pytest.raises(ValueError, match="model-00002-.* differs from the source.*it was not published"):
        megatron_to_hf(tmp_path / "store", tmp_path / "back", verify=True, max_file_bytes=MODEL_FILES)
    assert not (tmp_path / "back").exists()
    megatron_to_hf(tmp_path / "store", tmp_path / "back", verify=True, max_file_bytes=MODEL_FILES)
    same(tensors(model), tensors(tmp_path / "back"))


def test_fp32_takes_the_master_weights(model, tmp_path):
    """Where the checkpoint has them; else the weights, as fp32."""
    hf_to_megatron(model, tmp_path / "plain")
    store = verify_checkpoint(tmp_path / "plain")
    shutil.copytree(tmp_path / "plain/hf", tmp_path / "trained/hf")
    writer, name = (
        StoreWriter(tmp_path / "trained", metadata=store.metadata),
        "language.decoder.layers.1.mlp.experts.down",
    )
    for key in store.tensors:
        shape = store.shape(key)
        writer.add(key, shape, Box.whole(shape), store.read(key))
        if key != "weights/" + name:
            continue
        master = store.read(key).float() + 1e-4
        flat = master.flatten()
        for start, end in ((0, 1000), (1000, len(flat))):  # as data-parallel ranks write it
            writer.add_range("param/" + name, shape, Box.whole(shape), start, flat[start:end])
    writer.finish()
    before = tensors(model)
    for dtype in (torch.float32, torch.bfloat16, None):
        back = tmp_path / f"back-{dtype}"
        megatron_to_hf(tmp_path / "trained", back, dtype=dtype, verify=True)
        expected = {key: tensor.to(dtype or torch.bfloat16) for key, tensor in before.items()}
        if dtype == torch.float32:
            expected["model.language_model.layers.1.mlp.experts.down_proj"] = master.transpose(1, 2)
        same(expected, tensors(back))
        text = json.loads((back / "config.json").read_text())
        assert text["dtype"] == str(dtype or torch.bfloat16).removeprefix("torch.")


def test_a_full_disk_names_the_file(model, tmp_path, monkeypatch, capsys):
    from editcaption_mega import disk_file

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk_file.os, "fsync", full)
    code = exit_code(lambda words: hf_to_megatron(model, tmp_path / "store"), [])
    assert code == 1 and "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    hf_to_megatron(model, tmp_path / "store", verify=True)


def test_progress_counts_bytes_to_the_end(model, tmp_path, monkeypatch):
    monkeypatch.setattr(store_conversion, "STORE_FILE_BYTES", MODEL_FILES)
    counted = {}

    def progress(items, total=None, label=""):
        counted[label] = [0, total]
        for item in items:
            counted[label][0] += item
            yield item

    hf_to_megatron(model, tmp_path / "store", verify=True, progress=progress)
    written = sum(path.stat().st_size for path in (tmp_path / "store").glob("*.safetensors"))
    assert counted["written"] == [written, written]
    assert counted["compared"][0] == counted["compared"][1] > 1.9 * written
    megatron_to_hf(tmp_path / "store", tmp_path / "back", progress=progress)
    assert counted["checked"][0] == counted["checked"][1] >= written
    assert counted["written"] == [(tmp_path / "back/model.safetensors").stat().st_size] * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_source_that_changes_while_it_is_read_becomes_nothing(model, tmp_path, monkeypatch, workers):
    """Else half of the new weights and half of the old would be published without a word."""
    monkeypatch.setattr(store_conversion, "STORE_FILE_BYTES", MODEL_FILES)
    folder = shutil.copytree(model, tmp_path / "model")
    path = folder / "model.safetensors"

    def while_somebody_writes(items, total=None, label=""):
        for number, item in enumerate(items):
            if number == 2:
                content = path.read_bytes()
                with open(path, "r+b") as file:  # in place, as rsync --inplace does
                    file.seek(len(content) - 4)
                    file.write(bytes(byte ^ 1 for byte in content[-4:]))
            yield item

    with pytest.raises(ValueError, match="changed while it was read, so nothing was published"):
        hf_to_megatron(folder, tmp_path / "store", workers=workers, progress=while_somebody_writes)
    assert not (tmp_path / "store").exists()
    hf_to_megatron(folder, tmp_path / "store", workers=workers)
    hf_to_megatron(folder, tmp_path / "store", verify=True)
