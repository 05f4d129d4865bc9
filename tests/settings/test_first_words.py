"""What a newcomer types first, and the sentence that answers it: before PyTorch is imported, so within a second or two.

The mistakes are those of a trial as a new user; each is a real command line of the training commands."""

import json
import subprocess
import sys

import pytest

from tests.helpers import ROOT

# Reads command lines, prints (exit code, stdout and stderr) of each, and at last whether PyTorch was imported.
RUN = """
import contextlib, io, json, sys
from editcaption_mega import cli, train
for line in json.load(sys.stdin):
    words = io.StringIO()
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        try:
            code = cli.exit_code(train._sft, line)
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, words.getvalue()]))
print(json.dumps("torch" in sys.modules))
"""
JOB = "JOB"  # stands for a good file of settings
ROWS = (
    ([JOB, "optimizer.lr=1"], "unknown setting 'optimizer.lr': did you mean 'optimizer.learning_rate'?"),
    ([JOB, "lr=1"], "did you mean 'optimizer.learning_rate'?"),
    ([JOB, "optimizer.max_grad_norm=1"], "did you mean 'optimizer.clip_grad'?"),
    ([JOB, "training.batch_size=2"], "did you mean 'training.global_batch_size' (samples per optimizer step"),
    ([JOB, "training.micro_batch_size=1"], "there is none: samples are packed into rows of data.sequence_length"),
    ([JOB, "training.gradient_accumulation_steps=4"], "there is none: samples are packed into rows"),
    ([JOB, "data.validation_shards=x"], "did you mean 'data.held_out' (folders of shards) or 'data.held_out_share'"),
    ([JOB, "training.eval_steps=50"], "did you mean 'evaluation.every'?"),
    ([JOB, "model.lora_rank=8"], "did you mean 'model.adapters.rank'?"),
    ([JOB, "training.wandb_project=mine"], "did you mean 'wandb.project', with training.loggers=[tensorboard,wandb]?"),
    ([JOB, "learning_rate=3"], "did you mean 'optimizer.learning_rate'?"),
    ([JOB, "training.steps=ten"], "training.steps is 'ten', expected a whole number"),
    ([JOB, "training.steps=2.5"], "training.steps is '2.5', expected a whole number"),
    ([JOB, "optimizer.learning_rate=high"], "optimizer.learning_rate is 'high', expected a number"),
    ([JOB, "data.shards=[a,b"], "its value is not valid YAML ("),
    ([JOB, "data.shards=/nope"], "data.shards: /nope: no such folder of shards"),
    ([JOB, "data.shards={}/model"], "has no index.json: make the folder with editcaption shards"),
    ([JOB, "data.shards={}/pairs.jsonl"], "is a file, expected a folder of shards: make one with editcaption shards"),
    ([JOB, "model.folder="], "model.folder is empty: name a Hugging Face Qwen3-VL folder"),
    ([JOB, "model.folder=Qwen/Qwen3-VL-2B-Instruct"], "download it: hf download Qwen/Qwen3-VL-2B-Instruct"),
    ([JOB, "model.checkpoint=/nope"], "model.checkpoint=/nope: no such folder; expected a checkpoint or a run folder"),
    ([JOB, "training.output={}/pairs.jsonl"], "is a file: name a folder"),
    ([JOB, "training.precision=fp16"], "training.precision is 'fp16', expected one of bf16, fp32"),
    ([JOB, "parallel.context_parallel_size=2"], "context_parallel_size=2 is not supported: set it to 1"),
    (["{}/bad.yaml"], "bad.yaml is not valid YAML: line 3, column 14: "),
    (["{}/none.yaml"], "none.yaml does not exist: name a YAML file such as configs/sft_demo.yaml"),
    ([], "give a file of settings, such as configs/sft_demo.yaml"),
    (["--config", JOB], "unrecognized arguments: --config (the file of settings is named without an option)"),
)  # fmt: skip


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    root = tmp_path_factory.mktemp("first")
    (root / "model").mkdir()
    (root / "model/config.json").write_text("{}")
    (root / "pairs").mkdir()
    (root / "pairs/index.json").write_text("{}")
    (root / "pairs.jsonl").write_text("{}\n")
    (root / "bad.yaml").write_text("data:\n  shards: [a]\n  training: 3: 4\n")
    good = root / "job.yaml"
    good.write_text(
        f"model: {{folder: {root}/model}}\ndata: {{shards: [{root}/pairs]}}\ntraining: {{output: {root}/run}}\n"
    )
    lines = [[word.replace(JOB, str(good)).replace("{}", str(root)) for word in line] for line, _ in ROWS]
    lines.append([str(good), "--dry-run"])
    command = [sys.executable, "-c", RUN]
    done = subprocess.run(command, input=json.dumps(lines), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("row", "line", "words"), [(i, *row) for i, row in enumerate(ROWS)], ids=str)
def test_a_first_mistake_has_one_sentence_with_its_mend(answers, row, line, words):
    code, text = answers[row]
    assert code == 2 and words in text
    sentences = [said for said in text.splitlines() if "error: " in said]
    assert len(sentences) == 1 and "unexpected" not in sentences[0].partition("error: ")[2][:12]


def test_nothing_of_it_waited_for_pytorch(answers):
    *_, good, imported = answers
    assert good[0] == 0 and "nothing was started (--dry-run)" in good[1], "the file that the others change is good"
    assert imported is False
