"""Runs on every rank: one case after another, numbers into JSON files.

Usage: -m tests.parity.worker WORK STEPS KIND/LAYOUT [KIND/LAYOUT ...]; matrix.py starts it and owns the references.
"""

import faulthandler
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from safetensors.torch import load_file

from editcaption_mega import platform
from editcaption_mega.conversion import (
    WEIGHTS,
    AdapterChoice,
    FolderReader,
    StoreWriter,
    load_weights,
    local_param_shards,
    rules_for,
)
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.data.text.side_files import SideFiles
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import AdapterSettings, ModelSettings, OptimizerSettings, ParallelSettings
from editcaption_mega.training.adapter_state import train_adapters_alone
from editcaption_mega.training.checkpoint import (
    CheckpointFolder,
    load_optimizer,
    load_random_state,
    save_checkpoint,
)
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.optimizer import build_train_state
from editcaption_mega.training.pipeline import run_pipeline
from tests.helpers import tiny

LAYOUTS = {
    "1 rank": dict(),
    "1 rank, full recompute": dict(recompute="full"),
    "1 rank, selective recompute": dict(recompute="selective"),
    "1 rank, full recompute by 3 layers": dict(recompute="full", recompute_num_layers=3),
    "1 rank, full recompute but vision": dict(recompute="full", recompute_vision=False),
    "1 rank, vision recompute": dict(recompute_vision=True),
    "PP2, recompute of 1 layer in each": dict(
        pipeline_model_parallel_size=2, recompute="full", recompute_method="block", recompute_num_layers=1
    ),
    "TP2+SP, recompute of norms, attention and feed-forward": dict(
        tensor_model_parallel_size=2, recompute="selective", recompute_modules=["layernorm", "core_attn", "mlp"]
    ),
    "TP2+SP, recompute of norms, attention and experts": dict(
        tensor_model_parallel_size=2, recompute="selective", recompute_modules=["layernorm", "core_attn", "moe"]
    ),
    "TP2 x EP2, recompute of norms and expert activations": dict(
        tensor_model_parallel_size=2,
        expert_model_parallel_size=2,
        expert_tensor_parallel_size=1,
        recompute="selective",
        recompute_modules=["layernorm", "moe_act"],
        recompute_vision=True,
    ),
    "1 rank, weight gradients apart": dict(fused_weight_gradients=False),
    "DP2": dict(),
    "TP2+SP": dict(tensor_model_parallel_size=2),
    "TP2+SP, full recompute": dict(tensor_model_parallel_size=2, recompute="full"),
    "TP2+SP in 4 pieces": dict(tensor_model_parallel_size=2, sequence_pieces=4),
    "TP2 x PP2 in 2 pieces, weight gradients apart": dict(
        tensor_model_parallel_size=2, pipeline_model_parallel_size=2, sequence_pieces=2, fused_weight_gradients=False
    ),
    "TP2, no SP": dict(tensor_model_parallel_size=2, sequence_parallel=False),
    "PP2": dict(pipeline_model_parallel_size=2),
    "PP2 x VPP2": dict(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2),
    "PP2 of 3+5 layers": dict(pipeline_model_parallel_size=2, layers_per_chunk=[3, 5]),
    "PP2 x VPP2 of 2+3+1+2 layers": dict(
        pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2, layers_per_chunk=[2, 3, 1, 2]
    ),
    "TP2 x PP2 of 6+2 layers": dict(
        tensor_model_parallel_size=2, pipeline_model_parallel_size=2, layers_per_chunk=[6, 2]
    ),
    "PP2 of 1+7 layers": dict(pipeline_model_parallel_size=2, layers_per_chunk=[1, 7]),
    "PP2 of 0+8 layers": dict(pipeline_model_parallel_size=2, layers_per_chunk=[0, 8]),
    "PP2 of 8+0 layers": dict(pipeline_model_parallel_size=2, layers_per_chunk=[8, 0]),
    "PP2 x VPP2 of 1+3+3+1 layers": dict(
        pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2, layers_per_chunk=[1, 3, 3, 1]
    ),
    "PP2 x VPP4": dict(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=4),
    "TP2 x PP2 x VPP2 of 0+1+6+1 layers": dict(
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=2,
        virtual_pipeline_model_parallel_size=2,
        layers_per_chunk=[0, 1, 6, 1],
    ),
    "PP4 x VPP2": dict(pipeline_model_parallel_size=4, virtual_pipeline_model_parallel_size=2),
    "PP4 of 1+1+3+3 layers, full recompute": dict(
        pipeline_model_parallel_size=4, layers_per_chunk=[1, 1, 3, 3], recompute="full"
    ),
    "PP2, delayed weight gradients": dict(pipeline_model_parallel_size=2, delayed_weight_gradients=[0, 1]),
    "TP2 x PP2 of 6+2 layers, delayed weight gradients": dict(
        tensor_model_parallel_size=2,
        pipeline_model_parallel_size=2,
        layers_per_chunk=[6, 2],
        delayed_weight_gradients=[0, 0],
        sequence_pieces=2,
    ),
    "PP2 x EP2, delayed weight gradients": dict(
        pipeline_model_parallel_size=2, expert_model_parallel_size=2, delayed_weight_gradients=[0, 1]
    ),
    "PP4, delayed weight gradients, full recompute": dict(
        pipeline_model_parallel_size=4, delayed_weight_gradients=[0, 0, 1, 3], recompute="full"
    ),
    "PP2, delayed weight gradients, recompute of norms": dict(
        pipeline_model_parallel_size=2,
        delayed_weight_gradients=[0, 1],
        recompute="selective",
        recompute_modules=["layernorm"],
    ),
    "PP2 x EP2, delayed weight gradients, recompute of norms and expert activations": dict(
        pipeline_model_parallel_size=2,
        expert_model_parallel_size=2,
        delayed_weight_gradients=[0, 1],
        recompute="selective",
        recompute_modules=["layernorm", "moe_act"],
    ),
    "EP2": dict(expert_model_parallel_size=2),
    "EP2, experts in one piece": dict(expert_model_parallel_size=2, expert_pieces=1),
    "TP2 x EP2": dict(tensor_model_parallel_size=2, expert_model_parallel_size=2, expert_tensor_parallel_size=1),
    "expert TP2": dict(tensor_model_parallel_size=2, expert_tensor_parallel_size=2),
    "TP2, expert TP1": dict(tensor_model_parallel_size=2, expert_tensor_parallel_size=1),
    "TP2 x PP2": dict(tensor_model_parallel_size=2, pipeline_model_parallel_size=2),
    "TP2 x EP2 x expert TP2": dict(
        tensor_model_parallel_size=2, expert_model_parallel_size=2, expert_tensor_parallel_size=2
    ),
    "PP2 x VPP2 x EP2": dict(
        pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2, expert_model_parallel_size=2
    ),
}
STEPS, ROWS_PER_STEP, SAMPLES_PER_STEP = 20, 4, 8
OPTIMIZER = OptimizerSettings(learning_rate=2e-4, warmup_steps=2, weight_decay=0.1)
ROW = 160  # tokens
SEED = 7  # of new adapters


def step_samples(step: int):
    """Samples of one optimizer step; the last row has no picture at all, another sample of the step neither."""
    return tiny.samples(SAMPLES_PER_STEP, seed=100 + step % 4, text_only=(3, 6, 7))


def rows_of(samples, parallel: ParallelSettings, length: int = ROW):
    """The rows of this rank: two samples each, dealt over data-parallel ranks."""
    groups = [samples[i : i + 2] for i in range(0, len(samples), 2)]
    mine = groups[parallel_state.get_data_parallel_rank() :: parallel_state.get_data_parallel_world_size()]
    sequence = parallel.use_sequence_parallel
    return [
        tiny.row(
            group,
            length,
            with_images=parallel_state.is_pipeline_first_stage(),
            ranks=parallel.tensor_model_parallel_size if sequence else 1,
            rank=parallel_state.get_tensor_model_parallel_rank() if sequence else 0,
        )
        for group in mine
    ]


def make_step(number: int, parallel: ParallelSettings) -> Step:
    samples = step_samples(number)
    responses = sum(len(sample.answer_ids) for sample in samples)
    return Step(number, rows_of(samples, parallel), ROW, responses, len(samples))


class Case:
    """One model folder under one layout."""

    optimizer = OPTIMIZER
    metadata: dict = {}  # of its checkpoints

    def __init__(
        self,
        folder: Path,
        layout: str,
        name: str,
        *,
        steps: int = STEPS,
        aux: float = 0.0,
        start: Path | None = None,
        adapters: AdapterSettings | None = None,
    ):
        options = dict(LAYOUTS[layout])
        self.steps = steps
        self.folder = folder
        of_model = {name: options.pop(name) for name in LAYOUTS[layout] if name.startswith(("recompute", "fused"))}
        self.model = ModelSettings(
            folder=str(folder), router_aux_loss=aux, adapters=adapters or AdapterSettings(), **of_model
        )
        self.parallel = ParallelSettings(**options)
        self.model.validate()
        self.parallel.validate()
        self.architecture = Architecture.from_folder(folder)
        # A rendezvous of its own for each case.
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder.parent}/rendezvous-{name}",
            rank=int(os.environ["RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
        )
        platform.initialize(
            platform.Layout(
                self.parallel.tensor_model_parallel_size,
                self.parallel.pipeline_model_parallel_size,
                self.parallel.virtual_pipeline_model_parallel_size,
                self.parallel.expert_model_parallel_size,
                self.parallel.expert_tensor_parallel_size,
            ),
            seed=7,
        )
        self.trainer = None
        self.choice = AdapterChoice.of(self.architecture, self.model.adapters)
        plan = self.choice.plan(SEED) if self.choice else None
        self.chunks = build_model(self.architecture, self.model, self.parallel, "fp32", plan)
        load_weights(self.chunks, self.architecture, folder, None if self.choice else start)
        if self.choice is None:
            self.param_shards = local_param_shards(self.chunks, rules_for(self.architecture))
        else:
            self.param_shards = train_adapters_alone(self.chunks, self.choice, seed=SEED, checkpoint=start)

    def logits_error(self, reference: dict[str, torch.Tensor]) -> float:
        """Largest difference of any logit of step 0's rows from transformers', over all ranks."""
        worst = torch.zeros(1, dtype=torch.float64)

        def forward(data, model):
            batch = next(data)

            def compare(logits):
                for i, name in enumerate(batch.sample_ids):
                    mine = logits[batch.bounds[i] : batch.bounds[i + 1]]
                    worst.clamp_(min=(mine - reference[name]).abs().max().item())
                return logits.sum(), {}

            return model(batch, output="logits"), compare

        with torch.no_grad():
            run_pipeline(forward, self.chunks, rows_of(step_samples(0), self.parallel), ROW, forward_only=True)
        dist.all_reduce(worst, op=dist.ReduceOp.MAX)
        return worst.item()

    def train(self, first: int, last: int) -> list[float]:
        if self.trainer is None:
            self.trainer = build_train_state(
                self.chunks, self.param_shards, self.optimizer, precision="fp32", total_steps=self.steps
            )
            for chunk in self.trainer.chunks:
                chunk.train()
        return [
            train_step(self.trainer, SFTObjective(), make_step(number, self.parallel))["loss"]
            for number in range(first, last)
        ]

    def save_tensors(self, folder: Path, values: Callable = lambda shard: shard.parameter.data) -> None:
        """One tensor for each parameter (its weights) as a store, without the optimizer, that converts back."""
        source = FolderReader(self.folder)
        if platform.is_rank_zero():
            SideFiles.read(self.folder).write(folder / "hf")
        writer = StoreWriter(folder, metadata={"experts_in_out": source.experts_in_out})
        for shard in self.param_shards:
            dense_owner = parallel_state.get_data_parallel_rank() == 0
            owner = parallel_state.get_expert_data_parallel_rank() == 0 if shard.is_expert else dense_owner
            if shard.writer and owner:
                writer.add(WEIGHTS + shard.rule.name, shard.rule.shape, shard.box, values(shard))
        writer.finish()

    def save(self, output: Path, step: int) -> None:
        target = CheckpointFolder(output, {"step": step, "updates": step}, SideFiles.read(self.folder), self.metadata)
        save_checkpoint(target, self.param_shards, self.trainer.optimizer)

    def resume(self, checkpoint: Path, step: int) -> None:
        self.train(0, 0)
        load_optimizer(checkpoint, {"updates": step}, self.param_shards, self.trainer.optimizer)
        self.trainer.scheduler.step(increment=step)
        load_random_state(checkpoint)


def measure(work: Path, steps: int, kind: str, layout: str) -> None:
    """All numbers of one model at one layout, into `work/parts`."""
    folder, slug = work / kind, slug_of(kind, layout)
    case = Case(folder, layout, slug, steps=steps)
    numbers = {"logits": case.logits_error(load_file(work / f"{kind}-logits.safetensors"))}
    case.save_tensors(work / "stores" / slug)
    numbers["losses"] = case.train(0, steps // 2)
    case.save(work / "runs" / slug, steps // 2)
    numbers["losses"] += case.train(steps // 2, steps)
    finish(work, slug, "trained", numbers)


def resume(work: Path, steps: int, kind: str, layout: str) -> None:
    """The second half of the steps again, from this layout's own checkpoint."""
    slug = slug_of(kind, layout)
    finish(work, slug, "resumed", {"resumed": continued(work, steps, kind, layout, slug)})


def move(work: Path, steps: int, kind: str, layout: str) -> None:
    """The second half of the steps at this layout, from one rank's checkpoint; first what was read is written again."""
    slug, origin = slug_of(kind, layout), slug_of(kind, "1 rank")
    copy = work / "copies" / slug
    finish(work, slug, "moved", {"moved": continued(work, steps, kind, layout, origin, copy)})


def balance(work: Path, steps: int, kind: str, layout: str) -> None:
    """At most six steps with the router's auxiliary loss."""
    slug = slug_of(kind, layout)
    case = Case(work / kind, layout, slug + "-aux", steps=steps, aux=0.05)
    finish(work, slug, "aux", {"aux_losses": case.train(0, min(6, steps))})


def checkpoint_in(folder: Path, steps: int) -> Path:
    """The one that the matrix writes, of half of the steps."""
    return folder / "checkpoints" / f"step_{steps // 2:08d}"


def continued(work: Path, steps: int, kind: str, layout: str, origin: str, copy: Path | None = None) -> list[float]:
    checkpoint = checkpoint_in(work / "runs" / origin, steps)
    case = Case(work / kind, layout, f"{slug_of(kind, layout)}-from-{origin}", steps=steps, start=checkpoint)
    case.resume(checkpoint, steps // 2)
    if copy:
        case.save(copy, steps // 2)
    return case.train(steps // 2, steps)


def slug_of(kind: str, layout: str) -> str:
    return f"{kind}-{layout}".replace(" ", "_").replace(",", "")


def finish(work: Path, slug: str, phase: str, numbers: dict) -> None:
    if platform.is_rank_zero():
        path = work / "parts" / f"{slug}.{phase}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(numbers))
    platform.destroy()


def possible(kind: str, layout: str) -> bool:
    """Whether this kind of model can have this layout."""
    words = ("EP", "expert") if kind == "dense" else ("no SP", "feed-forward")
    return not any(word in layout for word in words)


def ranks_of(layout: str) -> int:
    """What the layout's own sizes come to; DP2 and EP2 leave the second rank to data parallelism."""
    options = LAYOUTS[layout]
    model = options.get("tensor_model_parallel_size", 1) * options.get("pipeline_model_parallel_size", 1)
    experts = options.get("expert_model_parallel_size", 1) * options.get("expert_tensor_parallel_size", 1)
    experts *= options.get("pipeline_model_parallel_size", 1)
    return 2 if layout == "DP2" else max(model, experts)


def in_child(job, *arguments) -> None:
    """Run a job in a forked child: imports are paid once, and no thread of its process groups outlives it."""
    child = os.fork()
    if child == 0:
        faulthandler.enable(2)
        try:
            job(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"{job.__name__} {arguments[1:]} failed")


def main() -> None:
    work, steps = Path(sys.argv[1]), int(sys.argv[2])
    for kind, layout in (name.split("/") for name in sys.argv[3:]):
        in_child(measure, work, steps, kind, layout)
        in_child(resume, work, steps, kind, layout)
        if layout != "1 rank":
            in_child(move, work, steps, kind, layout)
        if kind == "moe":
            in_child(balance, work, steps, kind, layout)


if __name__ == "__main__":
    main()
