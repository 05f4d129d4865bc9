"""The parity matrix: every layout against plain transformers + torch AdamW, measured and written as a table.

`make parity` writes docs/parity.md from it; test_parity.py asserts the same numbers.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.helpers import tiny, warm

from . import worker

ALL = [f"{kind}/{layout}" for layout in worker.LAYOUTS for kind in ("dense", "moe") if worker.possible(kind, layout)]
# What `make test` measures: each kind of parallelism once, over steps that end every phase of the schedule and see
# each sample twice. `make parity` and `make test-slow` measure everything over `worker.STEPS`.
FAST_STEPS = 8
FAST = [
    "dense/1 rank", "moe/1 rank", "dense/DP2", "dense/TP2+SP", "dense/PP2", "moe/TP2 x EP2",
    "dense/PP2 of 1+7 layers", "moe/PP2 x VPP2 of 1+3+3+1 layers",
    "moe/PP2 x EP2, delayed weight gradients, recompute of norms and expert activations",
]  # fmt: skip
LOGITS_BAR, LOSS_BAR, MOVED_BAR = 2e-5, 1e-4, 1e-5


def measure(work: Path, names: list[str] = ALL, steps: int = worker.STEPS) -> dict[str, dict]:
    """Write models and references into `work`, run the cases there, and return numbers per "kind/layout"."""
    torch.set_num_threads(1)
    references = {}
    for kind in ("dense", "moe"):
        # The dense model is tied, the mixture of experts is not.
        model = tiny.hf_model(experts=kind == "moe", tied=kind == "dense")
        model.save_pretrained(work / kind)
        logits = {}
        with torch.no_grad():
            for sample in worker.step_samples(0):
                logits[sample.id] = model(**tiny.hf_inputs(sample), use_cache=False).logits[0].contiguous()
        save_file(logits, work / f"{kind}-logits.safetensors")
        references[kind] = reference_losses(model, steps)
    results = {}
    launch("worker", work, names, str(steps))
    for name in names:
        parts = sorted((work / "parts").glob(f"{worker.slug_of(*name.split('/'))}.*.json"))
        assert parts, f"nothing was measured of {name}"
        results[name] = {k: v for part in parts for k, v in json.loads(part.read_text()).items()}
    for name, numbers in results.items():
        kind, layout = name.split("/")
        one = results[f"{kind}/1 rank"]
        numbers["loss_error"] = largest(numbers["losses"], references[kind])
        numbers["resume_error"] = largest(numbers["resumed"], numbers["losses"][steps // 2 :])
        if "moved" in numbers:
            numbers["moved_error"] = largest(numbers["moved"], one["losses"][steps // 2 :])
            origin = worker.checkpoint_in(work / "runs" / worker.slug_of(kind, "1 rank"), steps)
            copy = worker.checkpoint_in(work / "copies" / worker.slug_of(kind, layout), steps)
            numbers["copied"] = same_tensors(origin, copy)
        if "aux_losses" in numbers:
            numbers["aux_error"] = largest(numbers["aux_losses"], one["aux_losses"])
            numbers["aux_effect"] = largest(one["aux_losses"], one["losses"][: len(one["aux_losses"])])
        slug = worker.slug_of(kind, layout)
        numbers["round_trip"] = round_trip(work / kind, work / "stores" / slug, work / "folders" / slug)
    return results


def reference_losses(model, steps: int) -> list[float]:
    """The steps of a plain transformers + AdamW loop over the same samples."""
    settings = worker.OPTIMIZER
    decay = [p for n, p in model.named_parameters() if p.dim() > 1 and not n.endswith(".bias")]
    rest = [p for n, p in model.named_parameters() if p.dim() == 1 or n.endswith(".bias")]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": settings.weight_decay}, {"params": rest, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )
    losses = []
    for step in range(steps):
        rate = settings.learning_rate * schedule(step, settings.warmup_steps, steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        samples = worker.step_samples(step)
        count = sum(len(sample.answer_ids) for sample in samples)
        total = 0.0
        optimizer.zero_grad()
        for sample in samples:
            logits = model(**tiny.hf_inputs(sample), use_cache=False).logits[0]
            answer = torch.tensor(sample.answer_ids)
            start = len(sample.prompt_ids) - 1
            log_probs = logits[start : start + len(answer)].log_softmax(-1)
            loss = -log_probs.gather(1, answer[:, None]).sum() / count
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_grad)
        optimizer.step()
        losses.append(total)
    return losses


def schedule(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then cosine to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def same_tensors(a: Path, b: Path) -> bool:
    """Whether two checkpoints hold the same weights and moments, bit for bit."""
    from editcaption_mega.conversion import StoreReader

    readers = [StoreReader(folder) for folder in (a, b)]
    names = [{name for name in reader.tensors if not name.startswith("random/")} for reader in readers]
    mine, other = readers
    return names[0] == names[1] and all(torch.equal(mine.read(name), other.read(name)) for name in names[0])


def round_trip(folder: Path, store: Path, output: Path) -> bool:
    """Convert the store of a layout back with the tool and compare every tensor and the config, bit for bit."""
    from editcaption_mega.conversion.convert import megatron_to_hf

    megatron_to_hf(store, output, max_file_bytes=300_000)
    before = load_file(folder / "model.safetensors")
    after = {}
    for path in output.glob("*.safetensors"):
        after |= load_file(path)
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def largest(a: list[float], b: list[float]) -> float:
    assert len(a) == len(b)
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def launch(program: str, work: Path, names: list[str], *options: str) -> None:
    """Run a program of this folder for the cases, those of equally many ranks together."""
    for count in (1, 2, 4):
        chosen = [name for name in names if worker.ranks_of(name.split("/")[1]) == count]
        if chosen:
            command = [sys.executable, "-m", f"tests.parity.{program}", work, *options, *chosen]
            warm.run_ranks(command, count, timeout=3000)


def table(results: dict[str, dict]) -> str:
    """The measured numbers as Markdown."""
    lines = [
        "# Parity with transformers, measured",
        "",
        "Written by `make parity` from a run on a CPU in fp32. The reference is plain transformers (one sample at a "
        "time, unpacked) and, for training, a loop of transformers + `torch.optim.AdamW`; ours packs two samples per "
        "row, two pictures of different sizes per sample, and rows without any picture.",
        "",
        f"- **logits**: largest difference of any logit (bar {LOGITS_BAR:g})",
        f"- **20 steps**: largest difference of the loss at any of 20 optimizer steps (bar {LOSS_BAR:g})",
        "- **resumed**: steps 11 to 20 after a restart from step 10's checkpoint, same layout (bar: 0, bitwise)",
        f"- **moved**: steps 11 to 20 at this layout from the one-rank run's checkpoint (bar {MOVED_BAR:g}), which "
        "this layout writes again bit for bit",
        "- **aux loss**: 6 steps with a router loss of 0.05, against one rank "
        "(`TP` and `DP` layouts balance over the same rows)",
        "- **round trip**: Hugging Face -> this layout -> Hugging Face, every tensor bit for bit",
        "",
        "| model | layout | logits | 20 steps | resumed | moved | aux loss | round trip |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, numbers in results.items():
        kind, layout = name.split("/")
        cells = [
            f"{numbers['logits']:.1e}",
            f"{numbers['loss_error']:.1e}",
            "bitwise" if numbers["resume_error"] == 0 else f"{numbers['resume_error']:.1e}",
            (f"{numbers['moved_error']:.1e}" if numbers["copied"] else "DIFFERS") if "copied" in numbers else "",
            f"{numbers['aux_error']:.1e}" if "aux_error" in numbers else "",
            "bitwise" if numbers["round_trip"] else "DIFFERS",
        ]
        lines.append(f"| {kind} | {layout} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
