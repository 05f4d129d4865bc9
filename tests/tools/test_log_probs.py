"""tools/log_probs.py against transformers, in one process and over the ranks of other layouts."""

import json
import os
import sys

import pytest
import torch

from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from tests.helpers import ROOT, small_job, tiny, warm

TOOL = ROOT / "tools/log_probs.py"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("log_probs")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=7)
    with ShardWriter(root / "preferences") as writer:
        for index in range(3):
            made = render_pair(WorldSettings(), 5, index)
            pair = made.pair.model_copy(
                update={"chosen": made.pair.instruction, "rejected": "Do nothing at all.", "instruction": None}
            )
            writer.add(pair, encode_png(made.source), "png", encode_png(made.target), "png")
    return root


def run(base, shards, output, *extra, ranks=1, start=warm.run):
    command = [sys.executable, str(TOOL), "--checkpoint", str(base / "model"), "--shards", str(base / shards)]
    command += ["--output", str(output), "--min-pixels", "1024", "--with-tokens", *extra]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return start(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def read(path):
    first, *rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert set(first["fingerprint"]) == {
        "weights", "shards", "prompt", "tokenizer", "pictures", "precision",
    }  # fmt: skip
    return rows


def reference(base, shards, row_tokens, i):
    """Token log-probs of one answer, by transformers."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(base / "model", dtype=torch.float32)
    dataset = open_pairs([str(base / shards)], base / "model", min_pixels=1024, max_pixels=1280 * 1024)
    sample = dataset.prompt(i)
    ids = torch.tensor(row_tokens["input_ids"])[None]
    with torch.no_grad():
        logits = model(
            input_ids=ids,
            pixel_values=tiny.pixel_values(sample, dataset.images),
            image_grid_thw=torch.tensor(sample.grids),
            mm_token_type_ids=(ids == dataset.encoder.image_token_id).int(),
        ).logits[0]
    start = row_tokens["response_start"]
    log_probs = logits[start - 1 : -1].double().log_softmax(-1)
    return log_probs.gather(1, ids[0, start:, None])[:, 0]


@pytest.fixture(scope="module")
def one_process(base):
    done = run(base, "shards", base / "one.jsonl")
    assert done.returncode == 0 and done.stdout.endswith("one.jsonl is written\n"), done.stderr
    return read(base / "one.jsonl")


def test_equals_transformers(base, one_process):
    dataset = open_pairs([str(base / "shards")], base / "model", min_pixels=1024, max_pixels=1280 * 1024)
    assert [row["id"] for row in one_process] == list(dataset.shards.ids)
    for i in (0, 3, 6):
        row = one_process[i]
        expected = reference(base, "shards", row, i)
        assert torch.allclose(torch.tensor(row["token_log_probs"]).double(), expected, atol=2e-5, rtol=0)
        assert row["log_prob"] == pytest.approx(expected.sum().item(), abs=1e-4)


@pytest.mark.parametrize(
    "options, ranks, note",
    [
        ("--tp 2 --ep 2 --etp 1", 2, ""),
        ("--ep 2", 2, ""),  # seven samples: a range of four and one of three, whose rows both ranks have to compute
        ("--pp 3", 3, "4 layers over 3 pipeline chunks, as level as they go: 1, 2, 1"),
    ],
)
def test_other_layouts_agree(base, one_process, options, ranks, note, tmp_path):
    done = run(base, "shards", tmp_path / "out.jsonl", *options.split(), ranks=ranks)
    assert done.returncode == 0, done.stderr
    assert note in done.stdout
    for a, b in zip(one_process, read(tmp_path / "out.jsonl"), strict=True):
        assert a["id"] == b["id"] and a["token_log_probs"] == pytest.approx(b["token_log_probs"], abs=2e-5)


def test_chosen_and_rejected(base):
    done = run(base, "preferences", base / "pairs.jsonl")
    assert done.returncode == 0, done.stderr
    rows = read(base / "pairs.jsonl")
    assert len(rows) == 3 and all(set(row) == {"id", "chosen", "rejected"} for row in rows)
    expected = reference(base, "preferences", rows[2]["rejected"], 2)
    assert torch.allclose(torch.tensor(rows[2]["rejected"]["token_log_probs"]).double(), expected, atol=2e-5, rtol=0)


def test_errors_are_one_line(base, one_process):
    again = run(base, "shards", base / "one.jsonl")
    assert again.returncode == 2 and "exists already" in again.stderr and "Traceback" not in again.stderr
    bad = run(base, "shards", base / "x.jsonl", "--cp", "2", start=warm.run_cold)
    assert bad.returncode == 2 and "context_parallel_size=2" in bad.stderr
    none = run(base, "nowhere", base / "x.jsonl")
    assert none.returncode == 2 and "nowhere" in none.stderr and "Traceback" not in none.stderr
    assert not (base / "x.jsonl").exists()


def test_adapters_have_the_numbers_of_the_folder_with_them_in_its_weights(base, one_process, tmp_path):
    """Of a PEFT folder and of a run of adapters, over tensor-parallel ranks too."""
    from editcaption_mega.conversion.convert import export_adapter, merge_adapter
    from editcaption_mega.settings import AdapterSettings
    from editcaption_mega.training import run_sft

    job = small_job.job(base / "model", base / "shards", tmp_path / "run", steps=2)
    job.model.adapters = AdapterSettings(rank=4, modules=["self_attn.*", "mlp.*", "visual.*"])
    run_sft(job)
    export_adapter(tmp_path / "run", tmp_path / "peft")
    merge_adapter(tmp_path / "run", tmp_path / "merged")

    def numbers(model, *extra, ranks=1):
        output = tmp_path / f"{model}-{ranks}.jsonl"
        done = run(base, "shards", output, "--checkpoint", str(tmp_path / model), *extra, ranks=ranks)
        assert done.returncode == 0, done.stderr
        return [row["log_prob"] for row in read(output)]

    merged = numbers("merged")
    assert numbers("run") == numbers("peft") == merged
    assert numbers("peft", "--tp", "2", ranks=2) == pytest.approx(merged, abs=1e-5)
    assert merged != pytest.approx([row["log_prob"] for row in one_process], abs=1e-3)
