"""Adapters at every layout against `peft` on transformers, with torch's AdamW; test_adapters.py asserts the numbers."""

import json
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from editcaption_mega.conversion.adapter_table import AdapterChoice
from editcaption_mega.conversion.adapter_values import new_values
from editcaption_mega.conversion.peft_folder import write_peft_folder
from editcaption_mega.model import Architecture
from editcaption_mega.model.adapters import dropout_mask, module_key, row_seed
from tests.helpers import tiny, warm

from . import adapter_exports, adapter_worker, matrix, worker

ALL = [
    f"{kind}/{layout}/LoRA"
    for layout in worker.LAYOUTS
    for kind in ("dense", "moe")
    if worker.possible(kind, layout)
] + [
    f"{kind}/{layout}/{form}"
    for kind, form, layouts in (
        ("dense", "rsLoRA", ("1 rank", "TP2+SP")),
        ("dense", "DoRA", (
            "1 rank", "1 rank, full recompute", "DP2", "TP2+SP", "TP2, no SP", "TP2+SP in 4 pieces", "TP2 x PP2",
            "PP2 x VPP2", "TP2 x PP2 of 6+2 layers, delayed weight gradients",
        )),
        ("moe", "DoRA of attention", ("1 rank", "TP2 x EP2", "PP2 x VPP2 x EP2")),
        ("dense", "dropout", (
            "1 rank", "1 rank, full recompute", "DP2", "TP2+SP", "TP2, no SP", "TP2+SP in 4 pieces", "PP2", "TP2 x PP2",
            "PP2, delayed weight gradients",
        )),
        ("moe", "dropout", ("1 rank", "TP2 x EP2")),
        ("dense", "DoRA and dropout", ("1 rank", "1 rank, full recompute", "TP2+SP", "TP2, no SP", "TP2 x PP2")),
        ("dense", "upper layers", (
            "1 rank", "1 rank, full recompute", "PP2", "PP2 x VPP2", "PP2, delayed weight gradients",
        )),
        ("moe", "router", ("1 rank", "EP2", "TP2 x EP2", "PP2 x EP2, delayed weight gradients")),
        ("moe", "shared", (
            "1 rank", "EP2", "expert TP2", "TP2 x EP2", "TP2 x EP2 x expert TP2", "PP2 x EP2, delayed weight gradients",
        )),
    )
    for layout in layouts
]  # fmt: skip
IDLE = "moe with idle experts"
# What `make test` measures, with a smaller model; a case whose checkpoints are moved comes with its one rank.
FAST_STEPS, FAST_LAYERS = 4, 3
FAST = [
    "dense/1 rank/LoRA", "moe/1 rank/LoRA", "dense/TP2+SP/LoRA", "moe/EP2/LoRA", "moe/expert TP2/LoRA",
    "dense/1 rank/DoRA and dropout", "dense/TP2+SP/DoRA and dropout", "moe/1 rank/router",
    "moe/1 rank/shared", "moe/EP2/shared",
]  # fmt: skip


def measure(work: Path, names: list[str], steps: int = worker.STEPS, layers: int = 8) -> dict[str, dict]:
    """Write models and references into `work`, run the cases there, and return numbers per "kind/layout/form".

    A reference is computed once for all layouts."""
    torch.set_num_threads(1)
    references: dict[tuple[str, str], list[float]] = {}
    for name in names:
        kind, _, form = name.split("/")
        if (kind, form) not in references:
            references[kind, form] = reference(work, kind, form, steps, layers)
    launch(work, names, steps)
    results = {}
    for name in names:
        parts = sorted((work / "adapter_parts").glob(f"{adapter_worker.slug_of(name)}.*.json"))
        assert parts, f"nothing was measured of {name}"
        results[name] = {k: v for part in parts for k, v in json.loads(part.read_text()).items()}
    for name, numbers in results.items():
        kind, _, form = name.split("/")
        slug = adapter_worker.slug_of(name)
        logits = work / f"{kind}-{form}-logits.safetensors"
        numbers |= adapter_exports.measure(work / "runs" / slug, work / kind, logits, work / "exports" / slug)
        numbers["loss_error"] = matrix.largest(numbers["losses"], references[kind, form])
        numbers["loss_change"] = abs(references[kind, form][0] - references[kind, form][-1])
        numbers["resume_error"] = matrix.largest(numbers["resumed"], numbers["losses"][steps // 2 :])
        if "moved" in numbers:
            origin = f"{kind}/1 rank/{form}"
            numbers["moved_error"] = matrix.largest(numbers["moved"], results[origin]["losses"][steps // 2 :])
            stores = [
                worker.checkpoint_in(work / folder / which, steps)
                for folder, which in (("runs", adapter_worker.slug_of(origin)), ("copies", slug))
            ]
            numbers["copied"] = matrix.same_tensors(*stores)
    return results


def launch(work: Path, names: list[str], steps: int) -> None:
    """The cases, those of equally many ranks together."""
    for count in (1, 2, 4):
        chosen = [name for name in names if worker.ranks_of(name.split("/")[1]) == count]
        if chosen:
            command = [sys.executable, "-m", "tests.parity.adapter_worker", work, str(steps), *chosen]
            warm.run_ranks(command, count, timeout=600 + 300 * len(chosen))


def reference(work: Path, kind: str, form: str, steps: int, layers: int) -> list[float]:
    """A plain loop with `peft` from the same adapters -> its losses; its logits afterwards go into a file."""
    model = tiny.hf_model(experts=kind != "dense", tied=kind == "dense", layers=layers)
    if kind == IDLE:
        keep_experts_idle(model)
    if not (work / kind).exists():
        model.save_pretrained(work / kind)
    settings = adapter_worker.FORMS[form]
    choice = AdapterChoice.of(Architecture.from_folder(work / kind), settings)
    assert choice is not None
    adapted = peft_model(model, choice, work / f"{kind}-{form}-peft")
    losses = peft_losses(adapted, choice, steps)
    adapted.eval()
    logits = {}
    with torch.no_grad():
        for sample in worker.step_samples(0):
            logits[sample.id] = adapted(**tiny.hf_inputs(sample), use_cache=False).logits[0].contiguous()
    save_file(logits, work / f"{kind}-{form}-logits.safetensors")
    return losses


def keep_experts_idle(model) -> None:
    """Let each token choose experts 0 and 1, or 2 and 3, and none the others, all that the second of two ranks has."""
    with torch.no_grad():
        for layer in model.model.language_model.layers:
            weight = layer.mlp.gate.weight
            first = weight[0].clone()
            weight.zero_()
            for row, factor in enumerate((1.0, 2.0, -1.0, -2.0)):
                weight[row] = factor * first


def peft_model(model, choice: AdapterChoice, folder: Path) -> PeftModel:
    """The model with adapters that begin as ours do; magnitudes (DoRA) as `peft` begins them."""
    values = {rule.name: new_values(rule, worker.SEED) for rule in choice.rules.values()}
    write_peft_folder(folder, choice, values, "model")
    config = LoraConfig.from_pretrained(folder)
    config.inference_mode = False
    adapted = get_peft_model(model, config)
    loaded = dict(adapted.named_parameters())
    for name, tensor in load_file(folder / "adapter_model.safetensors").items():
        if "magnitude" in name:
            continue
        stem, _, last = name.rpartition(".")
        with torch.no_grad():
            loaded[f"{stem}.default.{last}"].copy_(tensor)
    return adapted.train()


def peft_losses(model: PeftModel, choice: AdapterChoice, steps: int) -> list[float]:
    settings = adapter_worker.Case.optimizer
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained.values() if p.dim() > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained.values() if p.dim() == 1], "weight_decay": 0.0},
        ],
        lr=settings.learning_rate, betas=(settings.beta1, settings.beta2), eps=settings.eps,
    )  # fmt: skip
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * matrix.schedule(step, settings.warmup_steps, steps)
        samples = worker.step_samples(step)
        count, total = sum(len(sample.answer_ids) for sample in samples), 0.0
        optimizer.zero_grad()
        for place, sample in enumerate(samples):
            prepare_dropout(model, choice, step, samples, place)
            logits = model(**tiny.hf_inputs(sample), use_cache=False).logits[0]
            answer, start = torch.tensor(sample.answer_ids), len(sample.prompt_ids) - 1
            log_probs = logits[start : start + len(answer)].log_softmax(-1)
            loss = -log_probs.gather(1, answer[:, None]).sum() / count
            loss.backward()
            total += loss.item()
        clip(trained, choice, settings.clip_grad)
        optimizer.step()
        losses.append(total)
    return losses


class RowDropout(torch.nn.Module):
    """Our dropout of a row, for one of its samples, in the place of `peft`'s."""

    def __init__(self, share: float, key: int):
        super().__init__()
        self.share, self.key, self.seed, self.first = share, key, 0, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        rows = x.flatten(0, -2)
        shape = self.first + len(rows), x.size(-1)
        mask = dropout_mask(self.share, shape, self.seed, self.key, x)[self.first :]
        return (rows * mask).view_as(x)


def prepare_dropout(model: PeftModel, choice: AdapterChoice, step: int, samples: list, place: int) -> None:
    """Let the model's dropout be that of the sample's place in its row of two."""
    if not choice.settings.dropout:
        return
    row = samples[place - place % 2 :][:2]
    seed = row_seed(worker.SEED, step, " ".join(sample.id for sample in row))
    before = row[: place % 2]
    tokens = sum(len(sample.prompt_ids) + len(sample.answer_ids) for sample in before)
    patches = sum(grid[1] * grid[2] for sample in before for grid in sample.grids)
    for target in choice.targets:
        module = model.get_submodule(f"base_model.model.{target.name}")
        if not isinstance(module.lora_dropout["default"], RowDropout):
            key = module_key(target.rule.name, target.part.leaf)
            module.lora_dropout["default"] = RowDropout(choice.settings.dropout, key)
        dropout = module.lora_dropout["default"]
        dropout.seed, dropout.first = seed, patches if ".visual." in target.name else tokens


def clip(trained: dict[str, torch.nn.Parameter], choice: AdapterChoice, most: float) -> None:
    """The gradients, clipped; of experts that share an adapter, the sum for each, counted once."""
    shared = {n for n in trained if ".experts." in n} if choice.settings.experts == "shared" else set()
    experts = choice.architecture.experts
    squares = []
    for name, parameter in trained.items():
        grad = parameter.grad
        if name in shared:
            by_expert = grad.view(experts.num_experts, -1) if "lora_A" in name else grad.view(-1, experts.num_experts).T
            total = by_expert.sum(0)
            grad.copy_(_expanded(total, grad, "lora_A" in name))
            squares.append(total.square().sum())
        else:
            squares.append(grad.square().sum())
    norm = torch.stack(squares).sum().sqrt()
    factor = min(1.0, most / (norm.item() + 1e-6))
    for parameter in trained.values():
        parameter.grad.mul_(factor)


def _expanded(total: torch.Tensor, like: torch.Tensor, of_a: bool) -> torch.Tensor:
    """One expert's gradient -> that of all of them, in `peft`'s form."""
    experts = like.numel() // total.numel()
    whole = total.expand(experts, -1) if of_a else total[:, None].expand(-1, experts)
    return whole.reshape(like.shape)
