"""The DPO job as its users run it: against a plain loop, with each kind of reference, resumed, and given bad input."""

import copy
import json
import math
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from editcaption_mega import signals
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.settings import SettingsError, save_settings
from editcaption_mega.training import run_dpo, run_sft
from editcaption_mega.training.session import Ending
from tests.helpers import ROOT, preference_job, small_job, tiny, warm
from tests.parity import matrix

LAUNCH = ROOT / "launch/train_dpo.sh"
STEPS, BATCH, BETA = 20, 4, 0.5


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("dpo")
    small_job.write_folder(root / "model")
    preference_job.write_shards(root / "pairs")
    return root


def settings(base, output, *, preference=None, pairs="pairs", **options):
    preference = {"beta": BETA} | (preference or {})
    options = {"steps": STEPS, "global_batch_size": BATCH} | options
    return preference_job.job(base / "model", base / pairs, base / output, preference=preference, **options)


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return [row["loss"] for row in rows(folder)]


def apart(a, b):
    assert len(a) == len(b) > 0
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.fixture(scope="module")
def stored(base):
    run_dpo(settings(base, "stored"))
    return base / "stored"


def plain_losses(base, job) -> list[float]:
    """The same training with transformers and PyTorch alone: two sequences per pair, one at a time, unpacked."""
    from transformers import AutoModelForImageTextToText

    dataset = open_pairs(
        job.data.shards, base / "model", min_pixels=job.data.min_pixels, max_pixels=job.data.max_pixels,
        answers="preference",
    )  # fmt: skip
    policy = AutoModelForImageTextToText.from_pretrained(base / "model", dtype=torch.float32)
    reference = copy.deepcopy(policy).eval().requires_grad_(False)
    decay = [p for p in policy.parameters() if p.dim() > 1]
    rest = [p for p in policy.parameters() if p.dim() == 1]
    options = job.optimizer
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": options.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=0.0, betas=(options.beta1, options.beta2), eps=options.eps,
    )  # fmt: skip

    def log_prob(model, sample, answer):
        ids = torch.tensor([*sample.prompt_ids, *answer])[None]
        logits = model(
            input_ids=ids,
            pixel_values=tiny.pixel_values(sample, dataset.images),
            image_grid_thw=torch.tensor(sample.grids),
            mm_token_type_ids=(ids == dataset.encoder.image_token_id).int(),
            use_cache=False,
        ).logits[0, len(sample.prompt_ids) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()

    order = SampleOrder(len(dataset), job.training.seed)
    found = []
    for step in range(job.training.steps):
        rate = options.learning_rate * matrix.schedule(step, options.warmup_steps, job.training.steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        total = 0.0
        for k in range(BATCH):
            sample = dataset.sample(order.at(step * BATCH + k))
            chosen, rejected = (log_prob(policy, sample, answer) for answer in sample.answers)
            with torch.no_grad():
                ours, theirs = (log_prob(reference, sample, answer) for answer in sample.answers)
            z = job.preference.beta * ((chosen - ours) - (rejected - theirs))
            loss = -torch.nn.functional.logsigmoid(z) / BATCH
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), options.clip_grad)
        optimizer.step()
        found.append(total)
    return found


def test_twenty_steps_equal_a_plain_loop(base, stored):
    found, expected = losses(stored), plain_losses(base, settings(base, "stored"))
    assert len(found) == STEPS and apart(found, expected) <= 1e-4
    assert found[-1] < 0.8 * math.log(2), "20 steps must have moved the loss for this to mean anything"


def test_step_zero_is_ln_2_and_metrics_are_there(stored):
    first, *_, last = rows(stored)
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    names = {"reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy", "chosen_drift", "rejected_drift"}
    names |= {"kl", "chosen_tokens", "rejected_tokens"}
    assert all(names <= row.keys() for row in rows(stored))
    for mode in ("orientation", "viewpoint", "detail"):
        assert any({f"{mode}/{name}" for name in names | {"pairs"}} <= row.keys() for row in rows(stored))
    assert first["kl"] == pytest.approx(0, abs=1e-6) and first["chosen_drift"] == pytest.approx(0, abs=1e-4)
    assert last["kl"] > 1e-3 and last["reward_margin"] > 0
    # Where the progress line has a dash for the accuracy (`DPOObjective.blank_with`).
    assert [row["step"] for row in rows(stored) if "answers_apart" in row] == [1]
    for row in rows(stored):
        assert row["reward_margin"] == pytest.approx(row["reward_chosen"] - row["reward_rejected"])
        assert row["reward_chosen"] == pytest.approx(BETA * row["chosen_drift"], abs=1e-4)
        # Pairs with two failure modes count in both.
        parts = [(row[f"{mode}/pairs"], row[f"{mode}/reward_margin"]) for mode in ("orientation", "detail")
                 if f"{mode}/pairs" in row]  # fmt: skip
        assert sum(n for n, _ in parts) == BATCH
        assert sum(n * m for n, m in parts) / BATCH == pytest.approx(row["reward_margin"], abs=1e-6)


def test_resident_reference_gives_the_same_losses(base, stored):
    run_dpo(settings(base, "resident", reference={"mode": "resident"}))
    assert apart(losses(stored), losses(base / "resident")) <= 1e-6
    assert not (base / "resident/reference.jsonl").exists()


def test_two_plain_sequences_give_the_same_losses(base, stored):
    job = settings(base, "apart", steps=6)
    job.data.shared_prompt = False
    run_dpo(job)
    short = settings(base, "together", steps=6)
    run_dpo(short)
    together = rows(base / "together")
    assert apart(losses(base / "together"), losses(base / "apart")) <= 1e-5
    assert sum(row["tokens"] for row in rows(base / "apart")) > 1.3 * sum(row["tokens"] for row in together)


def test_resumed_run_equals_the_whole_one(base, stored):
    run_dpo(settings(base, "cut", stop_after=5))
    written = (base / "cut/reference.jsonl").read_bytes()
    run_dpo(settings(base, "cut"))
    assert losses(base / "cut") == losses(stored)
    assert (base / "cut/reference.jsonl").read_bytes() == written, "the reference is computed once"


def test_a_stopped_reference_goes_on_where_it_was(base):
    """A signal after the first of two ranges; then what a kill leaves: a part of the second."""
    preference_job.write_shards(base / "many", 80)

    def ask(items, *_):
        for number, item in enumerate(items):
            if number == 1:
                signals.ask()
            yield item

    whole, cut = (settings(base, name, pairs="many", steps=1) for name in ("ref_whole", "ref_cut"))
    run_dpo(whole)
    assert run_dpo(cut, ask) == Ending(0, signal.SIGTERM)
    partial = base / "ref_cut/reference.jsonl.partial"
    assert [path.name for path in sorted(partial.iterdir())] == ["000000000000-000000000064.jsonl", "head.json"]
    assert not (base / "ref_cut/checkpoints").exists()
    (partial / "000000000064-000000000080.jsonl.7-ab.partial").write_text('{"id": "syn')
    run_dpo(cut)
    assert (base / "ref_cut/reference.jsonl").read_bytes() == (base / "ref_whole/reference.jsonl").read_bytes()
    assert losses(base / "ref_cut") == losses(base / "ref_whole") and not partial.exists()


def test_a_run_of_an_earlier_version_goes_on(base, stored, capsys):
    output = shutil.copytree(stored, base / "earlier")
    (path,) = output.glob(f"checkpoints/step_{STEPS:08d}/state.json")
    state = json.loads(path.read_text())
    parts, now = state.pop("identity"), state.pop("settings")
    old = {name: parts[f"training.{name}"] for name in ("seed", "global_batch_size")} | {"data_fingerprint": "f" * 32}
    old["preference"] = {name[11:]: value for name, value in now.items() if name.startswith("preference.")}
    old |= {name: parts[name] for name in ("objective", "reference_weights")}
    path.write_text(json.dumps(state | old))
    lines = (output / "reference.jsonl").read_text().splitlines(keepends=True)
    first = json.loads(lines[0])
    first["fingerprint"]["tokenizer"] = "of the words alone"
    (output / "reference.jsonl").write_text(json.dumps(first) + "\n" + "".join(lines[1:]))
    job = settings(base, "earlier", steps=STEPS + 1)
    job.checkpoint.verify = False  # the checksum is that of the new form
    run_dpo(job)
    text = capsys.readouterr().out
    assert "is of an earlier version and does not tell architecture, shards, prompt, tokenizer" in text
    assert f"training.steps: {STEPS} -> {STEPS + 1} from step {STEPS}" in text, "config.yaml tells the settings"
    assert len(losses(output)) == STEPS + 1


def test_resume_with_another_objective_is_refused(base, stored):
    with pytest.raises(ValueError, match=r"was trained with preference.beta=0.5, this job has preference.beta=0.2"):
        run_dpo(settings(base, "stored", preference={"beta": 0.2}))
    sft = small_job.job(base / "model", base / "pairs", base / "stored", steps=STEPS, global_batch_size=BATCH)
    with pytest.raises(ValueError, match="was trained with objective=dpo, this job has objective=sft"):
        run_sft(sft)


@pytest.mark.parametrize(
    "preference, reference",
    [
        (dict(loss="ipo", beta=0.3), {}),
        (dict(loss="hinge"), {}),
        (dict(loss="robust", label_smoothing=0.1), {}),
        (dict(loss="sigmoid", label_smoothing=0.1, nll_weight=0.2, severity_margin=0.5), {}),
        (dict(loss="sigmoid_norm", beta=3.0), {}),
        (dict(loss="simpo", beta=2.0, margin=0.5), {"mode": "none"}),
    ],
)
def test_every_loss_trains(base, preference, reference):
    output = "-".join(preference)
    run_dpo(settings(base, output + preference["loss"], preference=preference, reference=reference, steps=4))
    found = rows(base / (output + preference["loss"]))
    assert all(math.isfinite(row["loss"]) for row in found)
    assert ("chosen_drift" in found[0]) == (preference["loss"] != "simpo")


def test_severity_moves_the_margin(base):
    """At the start z = - severity_margin * severity, so the loss is known."""
    run_dpo(settings(base, "severity", preference={"severity_margin": 2.0}, steps=1, global_batch_size=16))
    expected = [math.log1p(math.exp(2.0 * (i % 5) / 4)) for i in range(16)]
    assert losses(base / "severity")[0] == pytest.approx(sum(expected) / 16, abs=1e-5)


def test_hardness_moves_the_margin(base, stored):
    """The same at the start, with the hardness of the stored reference's log-probs."""
    weights = {"hardness_margin": 2.0, "viewpoint_weight": 3.0}
    run_dpo(settings(base, "hardness", preference={**weights, "beta": 0.5}, steps=1, global_batch_size=16))
    expected = []
    for number, row in enumerate(sorted(reference_rows(base / "hardness"), key=lambda row: row["id"])):
        difference = row["rejected"]["log_prob"] - row["chosen"]["log_prob"]
        hardness = 1 / (1 + math.exp(-0.5 * difference))
        expected.append(math.log1p(math.exp((3.0 if number % 3 == 1 else 1.0) * 2.0 * hardness)))
    assert len(expected) == 16
    assert losses(base / "hardness")[0] == pytest.approx(sum(expected) / 16, abs=1e-5)


def reference_rows(run):
    lines = map(json.loads, (run / "reference.jsonl").read_text().splitlines())
    return [row for row in lines if "chosen" in row]


def launched(base, output, ranks, *overrides):
    config = base / f"{output}.yaml"
    save_settings(settings(base, output), config)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*(command if ranks > 1 else command[:1]), str(LAUNCH), str(config), *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return warm.run(command, env=environment)


TENSOR = ["parallel.tensor_model_parallel_size=2", "parallel.expert_tensor_parallel_size=1"]
PIPELINE = ["parallel.pipeline_model_parallel_size=2"]


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(TENSOR, id="TP2+SP"),
        pytest.param([*PIPELINE, "reference.mode=resident"], id="PP2 resident", marks=pytest.mark.slow),
        pytest.param([*PIPELINE, "parallel.layers_per_chunk=[3,1]"], id="PP2 uneven", marks=pytest.mark.slow),
        pytest.param(["parallel.expert_model_parallel_size=2"], id="EP2", marks=pytest.mark.slow),
        pytest.param([*TENSOR, "reference.mode=resident"], id="TP2+SP resident", marks=pytest.mark.slow),
    ],
)
def test_layouts_give_the_same_losses_and_metrics(base, stored, layout, request):
    output = request.node.callspec.id.replace(" ", "_")
    done = launched(base, output, 2, *layout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert ("4 layers over 2 pipeline chunks, as parallel.layers_per_chunk says: 3, 1" in done.stdout) == (
        output == "PP2_uneven"
    )
    assert apart(losses(base / output), losses(stored)) <= 1e-4
    for mine, one in zip(rows(base / output), rows(stored), strict=True):
        assert mine.keys() - {"seconds"} == one.keys() - {"seconds"}
        for name in ("reward_margin", "kl", "chosen_drift", "chosen_tokens"):  # accuracy: at the start a toss of a coin
            assert mine[name] == pytest.approx(one[name], abs=5e-3), name


# What a row says of time and memory, which no two runs have alike.
OF_THE_CLOCK = {
    "seconds", "data_seconds", "compute_seconds", "update_seconds", "save_seconds", "tokens_per_second",
    "samples_per_second", "tflops", "vision_tflops", "peak_memory_gib",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["stored", "resident"])
def test_overlapped_communication_changes_no_bit(base, mode):
    """Two data-parallel ranks: the reference reads weights before the first update, checkpoints between updates."""
    numbers = []
    for overlaps in ("true", "false"):
        output = f"{mode}_{overlaps}"
        options = [f"parallel.overlap_data_parallel={overlaps}", f"reference.mode={mode}", "training.steps=5"]
        done = launched(base, output, 2, *options, "checkpoint.every=2", "training.global_batch_size=8")
        assert done.returncode == 0, done.stdout + done.stderr
        numbers.append([{name: row[name] for name in row.keys() - OF_THE_CLOCK} for row in rows(base / output)])
    assert numbers[0] == numbers[1] and len(numbers[0]) == 5
    assert {"loss", "grad_norm", "reward_margin", "tokens"} <= numbers[0][0].keys()


@pytest.mark.slow
@pytest.mark.parametrize("counts", [None, "[0,2,1,1]"])
def test_interleaved_stages_give_the_same_losses(base, stored, counts, tmp_path):
    """Four chunks of four layers: DeepStack's features for the second go on to the second stage."""
    (tmp_path / "pairs").symlink_to(base / "pairs")
    (tmp_path / "model").symlink_to(base / "model")
    virtual = ["parallel.virtual_pipeline_model_parallel_size=2"]
    split = [f"parallel.layers_per_chunk={counts}"] if counts else []
    done = launched(tmp_path, "two", 2, *PIPELINE, *virtual, *split)
    assert done.returncode == 0, done.stdout + done.stderr
    assert apart(losses(tmp_path / "two"), losses(stored)) <= 1e-4


def test_a_file_of_log_probs_serves_as_reference(base, stored):
    tool = LAUNCH.parents[1] / "tools/log_probs.py"
    command = [sys.executable, str(tool), "--checkpoint", str(base / "model"), "--shards", str(base / "pairs")]
    command += ["--output", str(base / "reference.jsonl"), "--min-pixels", "1024"]
    done = warm.run(command)
    assert done.returncode == 0, done.stderr
    run_dpo(settings(base, "from_file", reference={"file": str(base / "reference.jsonl")}, steps=4))
    run_dpo(settings(base, "own_file", steps=4))
    assert apart(losses(base / "from_file"), losses(base / "own_file")) <= 1e-6


# --- what cannot work


@pytest.fixture(scope="module")
def scaled(base):
    """Another model of the same architecture: the language model's last norm is larger."""
    shutil.copytree(base / "model", base / "scaled")
    path = base / "scaled/model.safetensors"
    tensors = load_file(path)
    tensors["model.language_model.norm.weight"] *= 1.5
    save_file(tensors, path, metadata={"format": "pt"})
    return base / "scaled"


def test_dpo_from_other_weights_than_the_reference(base, scaled):
    """Allowed when asked for, and then step 0 is not ln 2."""
    run_dpo(settings(base, "other_start", reference={"checkpoint": str(scaled)}, steps=1))
    assert abs(losses(base / "other_start")[0] - math.log(2)) > 1e-3


def test_a_file_of_another_checkpoint_is_refused(base, stored, scaled):
    job = settings(base, "stale", reference={"file": str(stored / "reference.jsonl")}, steps=2)
    job.model.folder = str(scaled)
    with pytest.raises(ValueError, match=r"holds reference log-probs of something else: weights \(.*there, .*here\)"):
        run_dpo(job)
    job = settings(base, "stale", reference={"file": str(stored / "reference.jsonl")}, steps=2)
    job.data.max_pixels = 2048
    with pytest.raises(ValueError, match="something else: pictures "):
        run_dpo(job)
    job.data.max_pixels, job.training.precision = 1280 * 32 * 32, "bf16"
    with pytest.raises(ValueError, match=r"something else: precision \(fp32 there, bf16 here\)"):
        run_dpo(job)
    assert not (base / "stale/checkpoints").exists()


def test_a_digit_of_the_own_reference_that_changed_is_noticed(base):
    run_dpo(settings(base, "digit", steps=4, stop_after=2))
    path = base / "digit/reference.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[3])
    row["rejected"]["token_log_probs"][0] *= 1 + 1e-6
    path.write_text("\n".join([*lines[:3], json.dumps(row), *lines[4:]]) + "\n")
    with pytest.raises(
        ValueError, match=rf"reference.jsonl, line 4 is damaged: the log-probs of {row['id']} do not add"
    ):
        run_dpo(settings(base, "digit", steps=4))


def altered(base, stored, name, change):
    lines = [json.loads(line) for line in (stored / "reference.jsonl").read_text().splitlines()]
    lines = change(lines)
    path = base / name
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def shift(lines):
    lines[3]["rejected"]["token_log_probs"][0] += 5.0
    return lines


def infinite(lines):
    lines[3]["chosen"]["token_log_probs"][0] = float("-inf")
    return lines


def shorter(lines):
    lines[3]["chosen"]["token_log_probs"].pop()
    return lines


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda lines: lines[:-1], "is incomplete: it has no log-probs of sample .*15 samples there, 16 in"),
        (lambda lines: [*lines[:5], '{"id": "x", "cho'], "line 6 is not a JSON object: the file is damaged"),
        (lambda lines: lines[1:], "its first line holds no fingerprint"),
        (shorter, "has answers of .* tokens there, and of"),
        (infinite, "are not finite"),
        (shift, r"log-probs further apart than 0.0001 per token: .* \(rejected\): policy .*, reference"),
    ],
)
def test_damaged_reference_files(base, stored, change, words):
    path = altered(base, stored, "damaged.jsonl", change)
    with pytest.raises(ValueError, match=words):
        run_dpo(settings(base, "damaged", reference={"file": str(path)}, steps=4, global_batch_size=16))
    assert not (base / "damaged/checkpoints").exists()


@pytest.mark.parametrize(
    "change, preference, words",
    [
        ({"failure_modes": None}, {}, "says no failure_modes, and preference.failure_mode_metrics asks"),
        ({"severity": None}, {"severity_margin": 1.0}, "has no severity, and preference.severity_margin=1.0"),
        ({"rejected": None, "chosen": None}, {}, "has no chosen and rejected answers to compare"),
    ],
)
def test_pairs_that_lack_something(base, tmp_path, change, preference, words):
    shards = preference_job.write_shards(tmp_path / "shards", 3, **change)
    with pytest.raises(SettingsError, match=words):
        run_dpo(settings(base, tmp_path / "run", pairs=shards, preference=preference))
    if "failure_modes" in change:
        run_dpo(settings(base, tmp_path / "run", pairs=shards, preference={"failure_mode_metrics": False}, steps=1))
        assert not any("/" in name for name in rows(tmp_path / "run")[0])


def test_a_sample_that_is_not_finite_is_named(base, tmp_path):
    """One token of one pair gets an embedding of NaN: the loop stops and names that pair."""
    job = settings(base, tmp_path / "run", preference={"loss": "simpo"}, reference={"mode": "none"}, steps=2)
    dataset = open_pairs(job.data.shards, base / "model", min_pixels=1024, max_pixels=1 << 20, answers="preference")
    job.training.global_batch_size = len(dataset)
    samples = [dataset.sample(i) for i in range(len(dataset))]
    users = {}
    for sample in samples:
        for token in (*sample.prompt_ids, *sample.answer_ids):
            users.setdefault(token, set()).add(sample.id)
    token, (name,) = next((token, names) for token, names in users.items() if len(names) == 1)
    shutil.copytree(base / "model", tmp_path / "model")
    tensors = load_file(tmp_path / "model/model.safetensors")
    tensors["model.language_model.embed_tokens.weight"][token] = float("nan")
    assert "lm_head.weight" in tensors, "a tied embedding is the LM head too, and touches every sample"
    save_file(tensors, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    job.model.folder = str(tmp_path / "model")
    with pytest.raises(FloatingPointError, match="samples whose log-probs are not finite: ") as found:
        run_dpo(job)
    assert f"not finite: {name}. No update" in str(found.value)


def test_command_line_errors_are_one_sentence(base):
    bad = launched(base, "bad", 1, "preference.beta=0")
    assert bad.returncode == 2 and "preference.beta=0" in bad.stderr and "Traceback" not in bad.stderr
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    real = warm.run_cold(
        ["bash", LAUNCH, base / "bad.yaml", "preference.beta=0"],
        env={**os.environ, "PATH": path, "NPROC_PER_NODE": "1"},
    )
    assert real.returncode == 2 and "preference.beta=0" in real.stderr and "Traceback" not in real.stderr
    bad = launched(base, "bad", 1, "preference.betta=0.1")
    assert bad.returncode == 2 and "did you mean 'preference.beta'" in bad.stderr
    bad = launched(base, "bad", 1, f"reference.file={base / 'nowhere.jsonl'}")
    assert bad.returncode == 2 and "does not exist: write it with editcaption log-probs" in bad.stderr
    assert "Traceback" not in bad.stderr
