"""A job's texts for held-out pairs, from its start to its records, and that training knows nothing of them."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from editcaption_mega.conversion import StoreReader
from editcaption_mega.conversion.convert import megatron_to_hf
from editcaption_mega.data import open_shards
from editcaption_mega.inference.local import instructions
from editcaption_mega.inference.local.generator import Generator
from editcaption_mega.settings import SampleSettings, SettingsError, load_settings, save_settings
from editcaption_mega.training import run_sft
from editcaption_mega.training.sampled_pairs import sampled_numbers
from editcaption_mega.training.setup import open_dataset
from tests.helpers import ROOT, small_job, warm

NEW_TOKENS, STEPS, EVERY = 10, 5, 2
TIMES = ("seconds", "per_second", "tflops", "gib")  # what ends so is another number each time
ON_RANKS = """
import sys
from editcaption_mega.settings import load_settings
from editcaption_mega.training import run_sft
run_sft(load_settings(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("samples")
    small_job.write_folder(root / "model", dataclasses.replace(small_job.SIZE, initializer_range=0.3))
    small_job.write_shards(root / "shards")
    small_job.write_shards(root / "held_out", 7, seed=11)
    return root


def settings(base, name, *, every=EVERY, pairs=3, **training):
    made = small_job.job(base / "model", base / "shards", base / name, **({"steps": STEPS} | training))
    made.data.held_out = [str(base / "held_out")]
    made.evaluation.every = every
    made.samples = SampleSettings(pairs=pairs, seed=1, max_new_tokens=NEW_TOKENS)
    return made


@pytest.fixture(scope="module")
def whole(base):
    """An undisturbed run."""
    run_sft(settings(base, "whole"))
    return base / "whole"


def lines(folder, name="samples.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def by_transformers(base, run, folder):
    """Of the exported weights: the pairs that are sampled, and what transformers writes for them."""
    megatron_to_hf(run, folder)
    generator, dataset = (
        Generator(folder),
        open_dataset(dataclasses.replace(settings(base, "x")), shards=held_out(base)),
    )
    numbers = sampled_numbers(len(dataset), settings(base, "x").samples)
    prompts = [instructions._prompt(dataset.prompt(i), dataset.images) for i in numbers]
    return [dataset.id(i) for i in numbers], generator.generate(prompts, max_new_tokens=NEW_TOKENS)


def held_out(base):
    return open_shards(base / "held_out")


def test_the_texts_are_those_of_the_exported_weights(base, whole, tmp_path):
    rows = lines(whole)
    names, expected = by_transformers(base, whole, tmp_path / "hf")
    assert [(row["step"], row["id"]) for row in rows] == [(step, name) for step in (2, 4, 5) for name in names]
    last = [(row["text"], row["tokens"], row["finished"]) for row in rows[-3:]]
    assert last == [(one.text, one.token_count, one.finished) for one in expected]
    assert len({row["text"] for row in rows}) > 3, "texts change from pair to pair or from step to step"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, layout",
    [
        ("ep", {"expert_model_parallel_size": 2}),
        ("tp", {"tensor_model_parallel_size": 2, "expert_tensor_parallel_size": 2}),
        ("pp", {"pipeline_model_parallel_size": 2, "virtual_pipeline_model_parallel_size": 2}),
    ],
)
def test_on_two_ranks_they_are_too(base, tmp_path, name, layout):
    job = settings(base, name)
    for key, value in layout.items():
        setattr(job.parallel, key, value)
    save_settings(job, base / f"{name}.yaml")
    warm.run_ranks([sys.executable, "-c", ON_RANKS, base / f"{name}.yaml"], 2, PYTHONPATH=str(ROOT))
    rows = lines(base / name)
    names, expected = by_transformers(base, base / name, tmp_path / "hf")
    assert [(row["id"], row["text"], row["finished"]) for row in rows[-3:]] == [
        (pair, one.text, one.finished) for pair, one in zip(names, expected, strict=True)
    ]
    assert len(rows) == 9


def test_training_is_bitwise_what_it_is_without(base, whole):
    run_sft(settings(base, "plain", pairs=0))
    assert not (base / "plain/samples.jsonl").exists() and not (base / "plain/samples").exists()
    for ours, plain in zip(lines(whole, "metrics.jsonl"), lines(base / "plain", "metrics.jsonl"), strict=True):
        names = [name for name in plain if not name.endswith(TIMES)]
        assert {"loss", "grad_norm", "expert_load_mean"} <= set(names)
        assert {name: ours[name] for name in names} == {name: plain[name] for name in names}
    stores = [StoreReader(base / name / f"checkpoints/step_{STEPS:08d}") for name in ("whole", "plain")]
    tensors = {name for name in stores[0].tensors}
    assert tensors == set(stores[1].tensors) and any(name.startswith("random/") for name in tensors)
    for name in tensors:
        assert np.array_equal(*(store.read(name).float().numpy() for store in stores)), name


def test_a_line_has_the_reference_and_a_picture_of_both_sides(base, whole):
    shards = held_out(base)
    for row in lines(whole):
        number = list(shards.ids).index(row["id"])
        assert row["reference"] == shards.pair(number).instruction
        with Image.open(whole / row["picture"]) as picture:
            assert picture.size == (2 * 96 + 3 * 4, 96 + 2 * 4) and picture.format == "WEBP"
    assert len({row["picture"] for row in lines(whole)}) == 3 == len(list((whole / "samples").iterdir()))
    log = (whole / "log.txt").read_text()
    first = lines(whole)[0]
    assert "samples after step 2 (" in log and f"  {first['id']}: {first['text']}"[:60] in log
    numbers = [row for row in lines(whole, "metrics.jsonl") if "samples/passes" in row]
    assert [row["step"] for row in numbers] == [2, 4, 5]
    assert all(1 <= row["samples/passes"] <= NEW_TOKENS and row["samples/seconds"] > 0 for row in numbers)


def test_tensorboard_shows_pictures_and_texts(whole):
    board = EventAccumulator(str(whole / "tensorboard"), size_guidance={"tensors": 0, "images": 0})
    board.Reload()
    row = lines(whole)[0]
    (image,) = board.Images("samples/pair_1")
    assert (image.step, image.width, image.height) == (2, 204, 104)
    texts = board.Tensors("samples/pair_1/text_summary")
    assert [event.step for event in texts] == [2, 4, 5]
    words = texts[0].tensor_proto.string_val[0].decode()
    assert row["reference"] in words and row["id"] in words
    assert [event.value for event in board.Scalars("samples/passes")]


def test_a_run_that_goes_on_drops_what_came_after_its_checkpoint(base, whole):
    run_sft(settings(base, "cut", stop_after=3))
    path = base / "cut/samples.jsonl"
    assert [row["step"] for row in lines(base / "cut")] == [2] * 3
    late = [json.dumps({**row, "step": 4, "text": "of a start that was killed"}) + "\n" for row in lines(base / "cut")]
    path.write_text(path.read_text() + "".join(late) + '{"step": 5, "te')
    (base / "cut/samples/x.webp.partial").write_bytes(b"half")
    run_sft(settings(base, "cut"))
    assert lines(base / "cut") == lines(whole)
    assert sorted(path.name for path in (base / "cut/samples").iterdir()) == sorted(
        path.name for path in (whole / "samples").iterdir()
    )


def test_texts_without_room_are_refused_before_any_work(base):
    job = settings(base, "narrow")
    job.samples.max_new_tokens = 600
    with pytest.raises(
        SettingsError, match=r"tokens and 600 new ones are more than data.sequence_length=512: raise it"
    ):
        run_sft(job)
    assert not (base / "narrow/metrics.jsonl").exists()


def test_a_broken_picture_is_named_before_the_first_step(base):
    shutil.copytree(base / "held_out", base / "broken")
    for tar in (base / "broken").glob("*.tar"):
        tar.write_bytes(tar.read_bytes().replace(b"IDAT", b"IDxx"))
    job = settings(base, "of_broken")
    job.data.held_out = [str(base / "broken")]
    with pytest.raises(ValueError, match=r"syn-\S+"):
        run_sft(job)
    assert not (base / "of_broken/checkpoints").exists()


def test_which_pairs_is_a_pure_function_of_size_and_seed():
    chosen = sampled_numbers(1000, SampleSettings(pairs=4, seed=2))
    assert (
        chosen
        == sampled_numbers(1000, SampleSettings(pairs=4, seed=2))
        != sampled_numbers(1000, SampleSettings(pairs=4, seed=3))
    )
    assert len(set(chosen)) == 4 and sampled_numbers(1000, SampleSettings(pairs=2, seed=2)) == chosen[:2]
    assert sorted(sampled_numbers(2, SampleSettings(pairs=4))) == [0, 1] and not sampled_numbers(
        5, SampleSettings(pairs=0)
    )


def test_settings_of_texts_that_cannot_be():
    overrides = ["model.folder=m", "data.shards=[s]", "training.output=o"]
    with pytest.raises(SettingsError, match=r"samples.pairs=2 is for texts .* evaluation.every is 0"):
        load_settings(None, [*overrides, "samples.pairs=2"])
    with pytest.raises(SettingsError, match="samples.max_new_tokens"):
        load_settings(None, [*overrides, "samples.max_new_tokens=0"])
    assert load_settings(None, [*overrides, "samples.pairs=0"]).samples.pairs == 0
