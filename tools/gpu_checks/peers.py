"""SFT and DPO steps of 2B against a plain loop over transformers' model: the same weights, pictures and tokens, so the
losses agree, and the same reference, which is stored."""

import gc
import statistics
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from benches.measuring import peak, reset_peak, timed
from torch import Tensor, nn

from editcaption_mega import platform
from editcaption_mega.conversion import Box, Rule, local_param_shards, rules_for
from editcaption_mega.conversion.jobs import folder_parts, piece_names
from editcaption_mega.conversion.rules import unique_rules
from editcaption_mega.conversion.tensor_file import TensorForm
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.data.images.patches import Grid, ImageSettings, processor_patches
from editcaption_mega.model import Architecture
from editcaption_mega.planning.dry_run.rank_step import job_objective
from editcaption_mega.planning.workload import image_settings, picture_grid, planned_step
from editcaption_mega.settings import DPOSettings, JobSettings
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.megatron_optimizer import begin_state
from editcaption_mega.training.setup import rank_share

from .figures import Figure, Figures, Machine
from .models import model_with_weights, train_state_of, transformers_model
from .steps import JOBS, job_of

GIB = 2**30
REPEATS = 2
# Relative difference of losses. bf16 keeps 8 bits; a preference loss is a small difference of large sums.
MOST = {"SFT": (1e-2, 1e-4), "DPO": (5e-2, 1e-4)}
Execute = Callable[[], float]  # one step -> its loss


def run(machine: Machine) -> Figures:
    for kind in JOBS:
        settings, architecture, workload = job_of(kind, machine)
        if not machine.on_gpu:  # where logits of all tokens take most of a loop's time
            architecture = replace(
                architecture, vocab_size=1024, image_token_id=1001, vision_start_token_id=1002, vision_end_token_id=1003
            )
        platform.initialize(platform.Layout(), seed=1)
        try:
            step = planned_step(settings, architecture, workload, rank_share(settings.parallel))
            draw_values(step, architecture)
            batches = [batch.to(platform.device()) for batch in step.micro_batches]
            step = replace(step, micro_batches=batches)
            execute, weights = _ours(settings, architecture, step)
            ours = _measured(execute, machine)
            del execute
            _free(machine)
            theirs = _measured(_loop(settings, architecture, step, weights, machine), machine)
            _free(machine)
        except torch.OutOfMemoryError:
            yield Figure(f"{kind} step of 2B: transformers' time / ours", "not measured", "", "memory of the card")
            continue
        finally:
            platform.destroy()
        pairs = settings.training.global_batch_size
        apart = max(abs(a - b) / abs(b) for a, b in zip(ours.losses, theirs.losses, strict=True))
        note = f"{' '.join(f'{x:.5f}' for x in ours.losses)}; theirs {' '.join(f'{x:.5f}' for x in theirs.losses)}"
        most = machine.size(*MOST[kind])
        yield Figure(f"{kind} of 2B: first losses against transformers'", apart, "", note, most=most)
        yield Figure(f"{kind} of 2B: transformers, plain loop", pairs / theirs.seconds, "pairs/s", "no recomputation")
        ratio = theirs.seconds / ours.seconds
        yield Figure(f"{kind} step of 2B: transformers' time / ours", ratio, "x", f"ours {ours.seconds:.3g} s")
        if machine.on_gpu:
            memory = theirs.peak_bytes / ours.peak_bytes
            sizes = f"{theirs.peak_bytes / GIB:.1f} GiB, ours {ours.peak_bytes / GIB:.1f}, which has fp32 moments"
            yield Figure(f"{kind} step of 2B: transformers' peak / ours", memory, "x", sizes)


class _Measured:
    def __init__(self, losses: list[float], seconds: float, peak_bytes: int):
        self.losses, self.seconds, self.peak_bytes = losses, seconds, peak_bytes


def _measured(execute: Execute, machine: Machine) -> _Measured:
    reset_peak(machine.device)
    losses = [execute(), execute()]  # the second behind an update
    used = peak(machine.device)
    seconds = statistics.median(timed(execute, machine.device) for _ in range(machine.size(REPEATS, 1)))
    return _Measured(losses, seconds, used)


def _free(machine: Machine) -> None:
    gc.collect()
    if machine.on_gpu:
        torch.cuda.empty_cache()


def draw_values(step: Step, architecture: Architecture) -> None:
    """Random pixels, and random tokens in place of all text, which `planned_step` leaves alike."""
    generator = torch.Generator().manual_seed(4)
    most = min(architecture.vocab_size, architecture.image_token_id, 1000)
    for batch in step.micro_batches:
        assert batch.images is not None
        ids = batch.input_ids[0]
        text = ids != architecture.image_token_id
        ids[text] = torch.randint(0, most, (int(text.sum()),), generator=generator)
        batch.images.pixels.random_(0, 256, generator=generator)
        batch.targets.copy_(torch.cat([ids[tokens][-count:] for tokens, count in _answers(batch)]))


def _answers(batch: PackedBatch) -> list[tuple[Tensor, int]]:
    """For each answer the places of its prompt's tokens and its own in the row, and how many are its own."""
    keys = batch.key_index
    places = torch.arange(batch.key_bounds[-1], device=batch.input_ids.device) if keys is None else keys
    counts = [end - start for start, end in pairwise(batch.response_bounds)]
    return [(places[start:end], count) for (start, end), count in zip(pairwise(batch.key_bounds), counts, strict=False)]


def _ours(settings: JobSettings, architecture: Architecture, step: Step) -> tuple[Execute, dict[str, Tensor]]:
    """A job's step, and the weights before it under their Hugging Face names, on the host."""
    chunks = model_with_weights(architecture, settings)
    shards = {shard.rule.name: shard for shard in local_param_shards(chunks, rules_for(architecture))}
    # A copy: what is not rearranged is the parameter itself.
    read = {name: shard.view(shard.parameter.detach()).to("cpu", copy=True) for name, shard in shards.items()}
    weights = _hugging_face_tensors(architecture, read)
    state = train_state_of(chunks, architecture, settings)
    begin_state(state.optimizer, 0)
    objective, _ = job_objective(settings, architecture, step)
    return lambda: train_step(state, objective, step)["loss"], weights


def _hugging_face_tensors(architecture: Architecture, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """weights: canonical tensors by their rule's name."""

    def read(rule: Rule, box: Box) -> Tensor:
        return weights[rule.name][box.within(Box.whole(rule.shape))]

    tensors = {}
    for rule in unique_rules(rules_for(architecture)):
        for name, piece in piece_names(rule).items():
            form = TensorForm(weights[rule.name].dtype, piece.hf_shape)
            tensors[name] = torch.cat(list(folder_parts(rule, name, form, read)))
    return tensors


def _loop(
    settings: JobSettings, architecture: Architecture, step: Step, weights: dict[str, Tensor], machine: Machine
) -> Execute:
    """What one writes with transformers alone, a sample at a time, and AdamW with states in the weights' dtype."""
    model = transformers_model(architecture, weights, machine)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=_first_rate(settings), betas=(settings.optimizer.beta1, settings.optimizer.beta2),
        eps=settings.optimizer.eps, weight_decay=settings.optimizer.weight_decay, fused=machine.on_gpu,
    )  # fmt: skip
    images = image_settings(settings, architecture)
    grid = picture_grid(None, images)
    parts = [part for batch in step.micro_batches for part in unpacked(batch, images, grid)]
    preference = isinstance(settings, DPOSettings)
    count = step.num_samples if preference else step.response_tokens
    beta = settings.preference.beta if isinstance(settings, DPOSettings) else 0.0

    def execute() -> float:
        optimizer.zero_grad(set_to_none=True)
        total = torch.zeros((), device=machine.device)
        for inputs, labels in parts:
            logits = model(**inputs, use_cache=False).logits[:, :-1].float()
            losses = F.cross_entropy(logits.transpose(1, 2), labels[:, 1:], reduction="none").sum(1)
            if preference:  # log-probs of the stored reference are zeros (`job_objective`)
                losses = -F.logsigmoid(beta * (losses[1:] - losses[:1]))
            loss = losses.sum() / count
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.optimizer.clip_grad)
        optimizer.step()
        return total.item()

    return execute


def _first_rate(settings: JobSettings) -> float:
    """The rate of the first step of a warm-up (`training.optimizer.Schedule`)."""
    return settings.optimizer.learning_rate / (settings.optimizer.warmup_steps + 1)


def unpacked(batch: PackedBatch, images: ImageSettings, grid: Grid) -> list[tuple[dict[str, Tensor], Tensor]]:
    """The samples of a row as transformers takes them, one after another: its inputs, and labels [answers, tokens]
    that are -100 outside the answers. grid: of every picture, of which each sample has as many."""
    assert batch.images is not None
    pixels, bounds = processor_patches(batch.images.pixels, images), list(pairwise(batch.images.bounds))
    answers = _answers(batch)
    per_sample = len(answers) // len(batch.sample_ids)
    size = grid[0] * grid[1] * grid[2]
    pictures = sum(end - start == size for start, end in bounds) // len(batch.sample_ids)
    made = []
    for k in range(len(batch.sample_ids)):
        first, last = bounds[k * pictures][0], bounds[(k + 1) * pictures - 1][1]
        of_sample = answers[k * per_sample : (k + 1) * per_sample]
        ids = nn.utils.rnn.pad_sequence([batch.input_ids[0, places] for places, _ in of_sample], batch_first=True)
        labels = torch.full_like(ids, -100)
        for row, (places, count) in enumerate(of_sample):
            labels[row, len(places) - count : len(places)] = ids[row, len(places) - count : len(places)]
        positions = [batch.position_ids[:, 0, places].T for places, _ in of_sample]
        inputs = {
            "input_ids": ids,
            "attention_mask": nn.utils.rnn.pad_sequence([torch.ones_like(p) for p, _ in of_sample], batch_first=True),
            "position_ids": nn.utils.rnn.pad_sequence(positions, batch_first=True).permute(2, 0, 1),
            "pixel_values": pixels[first:last].repeat(per_sample, 1),
            "image_grid_thw": torch.tensor([grid] * (pictures * per_sample), device=ids.device),
        }
        made.append((inputs, labels))
    return made
