"""One decoder layer, dense and with experts, and one block of the vision tower, forward and backward, against
transformers' own modules with the same weights and inputs, taking turns.

`tools/bench.py layer` is the command."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from editcaption_mega import platform
from editcaption_mega.conversion import load_weights
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.attention import Cuts, Segments
from editcaption_mega.model.rotary import text_angles, vision_angles
from editcaption_mega.settings import ModelSettings, ParallelSettings

from .measuring import peak, reset_peak, timed
from .ways import CPU, SIZE, scratch_folder

EXPERTS, EXPERTS_PER_TOKEN = 16, 4
APART = 1e-4  # relative: both sum in fp32, in another order
Run = Callable[[Tensor], Tensor]  # hidden states [tokens, hidden] -> the module's


@dataclass(frozen=True)
class Case:
    """tokens: of the sequence, or patches of the picture."""

    tokens: int
    hidden: int


@dataclass(eq=False)
class Side:
    """One implementation of a module, and what it did."""

    name: str
    module: nn.Module
    run: Run
    times: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    results: tuple[Tensor, Tensor, float] | None = None  # output, gradient of the input, norm of the weights' gradients

    def step(self, x: Tensor, upstream: Tensor) -> None:
        self.module.zero_grad(set_to_none=True)
        x = x.clone().requires_grad_()
        out = self.run(x)
        out.backward(upstream)
        weights = [parameter.grad.norm() for parameter in self.module.parameters() if parameter.grad is not None]
        assert x.grad is not None and weights
        self.results = out.detach(), x.grad, torch.stack(weights).norm().item()


def measure(case: Case, repeats: int, say: Callable[[str], None]) -> list[dict]:
    """-> one record per module and implementation. Raises RuntimeError where they compute different things."""
    sizes = replace(
        SIZE, hidden_size=case.hidden, num_heads=case.hidden // 32, num_kv_heads=case.hidden // 64, vocabulary=0,
        intermediate_size=3 * case.hidden, vision_hidden_size=case.hidden, vision_heads=case.hidden // 32,
        vision_intermediate_size=4 * case.hidden, expert_intermediate_size=case.hidden // 2,
        experts_per_token=EXPERTS_PER_TOKEN,
    )  # fmt: skip
    records = []
    for experts in (0, EXPERTS):
        with scratch_folder(replace(sizes, experts=experts)) as root:
            platform.initialize(platform.Layout(), seed=1)
            try:
                ours, theirs = _models(root / "model")
                kind = "experts" if experts else "dense"
                modules = {f"decoder layer, {kind}": _decoder(ours, theirs, case)}
                if not experts:
                    modules["vision block"] = _vision(ours, theirs, case)
                for name, sides in modules.items():
                    say(f"layer: {name}")
                    records += _compared(name, sides, case, repeats)
            finally:
                platform.destroy()
    return records


def _models(folder: Path) -> tuple[nn.Module, nn.Module]:
    """Ours, and transformers', which computes experts as it does unless told otherwise."""
    from transformers import AutoModelForImageTextToText

    architecture = Architecture.from_folder(folder)
    (ours,) = build_model(architecture, ModelSettings(folder=str(folder)), ParallelSettings(), "fp32")
    load_weights([ours], architecture, folder)
    return ours.train(), AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).train()


def _decoder(ours: nn.Module, theirs: nn.Module, case: Case) -> tuple[Side, Side]:
    """The last layer of each on one sequence of text."""
    sizes, positions = ours.architecture, torch.arange(case.tokens).expand(3, 1, -1)
    angles = text_angles(positions, sizes.head_dim, sizes.rope_theta, sizes.mrope_section)
    cuts = Cuts.of((0, case.tokens), CPU)
    segments = Segments(qkv_format="thd", queries=cuts, keys=cuts, key_index=None, angles=angles)
    padding = torch.zeros(1, case.tokens, dtype=torch.bool) if sizes.experts else None
    layer = ours.language.decoder.layers[-1]
    text = theirs.model.language_model
    their_layer, turned = text.layers[-1], text.rotary_emb(torch.zeros(1), positions)

    def run(x: Tensor) -> Tensor:
        out, _ = layer(x[:, None], attention_mask=None, packed_seq_params=segments, padding_mask=padding)
        return out[:, 0]

    def their_run(x: Tensor) -> Tensor:
        out = their_layer(x[None], position_embeddings=turned, attention_mask=None)
        return (out if isinstance(out, Tensor) else out[0])[0]

    return Side("ours", layer, run), Side("transformers", their_layer, their_run)


def _vision(ours: nn.Module, theirs: nn.Module, case: Case) -> tuple[Side, Side]:
    """The first block of each on one picture, twice as wide as high or so."""
    width = next(n for n in range(max(1, int((2 * case.tokens) ** 0.5)), case.tokens + 1) if case.tokens % n == 0)
    places = torch.cartesian_prod(torch.arange(case.tokens // width), torch.arange(width)).view(-1, 2)
    block, their_block = ours.vision.blocks[0], theirs.model.visual.blocks[0]
    angles = vision_angles(places, ours.architecture.vision.head_dim)
    cuts = Cuts.of((0, case.tokens), CPU)
    images = SimpleNamespace(bounds=cuts.bounds, cu_seqlens=cuts.cu_seqlens, num_ranks=1)
    turned = tuple(torch.cat((part, part), -1) for part in angles)

    def their_run(x: Tensor) -> Tensor:
        return their_block(x, cu_seqlens=cuts.cu_seqlens, position_embeddings=turned)

    return (
        Side("ours", block, lambda x: block(x, angles, images)),
        Side("transformers", their_block, their_run),
    )


def _compared(name: str, sides: tuple[Side, Side], case: Case, repeats: int) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    x, upstream = (torch.randn(case.tokens, case.hidden, generator=generator) for _ in range(2))
    for side in sides:
        before = reset_peak(CPU)
        side.step(x, upstream)
        side.peak_bytes = peak(CPU) - before
    for turn in range(1 + repeats):  # the first turn warms up
        for side in sides:
            seconds = timed(lambda side=side: side.step(x, upstream), CPU)
            if turn:
                side.times.append(seconds)
    ours, theirs = sides
    apart = _apart(ours, theirs)
    if apart > APART:
        raise RuntimeError(f"{name}: ours and transformers' differ by {apart:.1e}, expected at most {APART:.0e}")
    median = statistics.median(ours.times)
    return [
        {
            "name": f"{name}: {side.name}", "ms": 1e3 * statistics.median(side.times),
            "fastest_ms": 1e3 * min(side.times), "slowest_ms": 1e3 * max(side.times),
            "time_ratio": statistics.median(side.times) / median, "peak_bytes": side.peak_bytes,
            "memory_ratio": side.peak_bytes / max(1, ours.peak_bytes), "apart": apart,
        }
        for side in sides
    ]  # fmt: skip


def _apart(ours: Side, theirs: Side) -> float:
    """The largest relative difference of output, gradient of the input and norm of the weights' gradients."""
    assert ours.results and theirs.results
    *mine, norm = ours.results
    *others, other_norm = theirs.results
    tensors = [((a - b).norm() / b.norm()).item() for a, b in zip(mine, others, strict=True)]
    return max(*tensors, abs(norm - other_norm) / other_norm)


def markdown(records: list[dict], machine: dict) -> str:
    lines = [
        f"{machine['device']}, {machine['threads']} threads, PyTorch {machine['torch']}, medians of "
        f"{machine['repeats']} turns; {machine['case']}",
        "",
        "| module | ms | from .. to | time / ours | peak MiB | memory / ours | largest difference |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for record in records:
        lines.append(
            f"| {record['name']} | {record['ms']:.1f} | {record['fastest_ms']:.1f} .. {record['slowest_ms']:.1f} | "
            f"{record['time_ratio']:.2f} | {record['peak_bytes'] / 2**20:.0f} | {record['memory_ratio']:.2f} | "
            f"{record['apart']:.1e} |"
        )
    return "\n".join(lines) + "\n"
