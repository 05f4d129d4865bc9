"""Real photographs and the real vocabulary through the whole system: a small model learns them by heart."""

import json

import pytest

from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.text.prompt import load_tokenizer
from tests.helpers import small_job

PIXELS = 128 * 128


@pytest.mark.slow
def test_a_small_model_overfits_the_real_pairs(real_pairs_jsonl, qwen_tokenizer_dir, tmp_path):
    from editcaption_mega.conversion.convert import megatron_to_hf
    from editcaption_mega.inference import Generator
    from editcaption_mega.inference.local.instructions import write_instructions
    from editcaption_mega.model.random_folder import SmallModel, write_random_folder
    from editcaption_mega.training import run_sft

    report = ingest(FORMATS["jsonl"].read(str(real_pairs_jsonl), ImportOptions()), tmp_path / "shards")
    assert (report.accepted, report.rejected) == (21, 5)
    write_random_folder(tmp_path / "model", load_tokenizer(qwen_tokenizer_dir), SmallModel(num_layers=3))
    job = small_job.job(tmp_path / "model", tmp_path / "shards", tmp_path / "run", steps=160, global_batch_size=21)
    job.data.max_pixels, job.data.sequence_length = PIXELS, 2048
    job.optimizer.learning_rate, job.optimizer.weight_decay = 2e-3, 0.0
    job.checkpoint.every = 1000
    run_sft(job)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[0]["loss"] > 10 and rows[-1]["loss"] < 0.05
    megatron_to_hf(tmp_path / "run", tmp_path / "trained")
    dataset = open_pairs([str(tmp_path / "shards")], tmp_path / "trained", min_pixels=1024, max_pixels=PIXELS)
    written = list(write_instructions(Generator(tmp_path / "trained"), dataset, max_new_tokens=96))
    assert [row["instruction"] for row in written] == [dataset.shards.pair(i).instruction for i in range(21)]
