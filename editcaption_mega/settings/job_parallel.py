"""How the ranks of a job are divided, and what they send each other when."""

import math
from dataclasses import dataclass

from .checks import SettingsError, at_least


@dataclass
class ParallelSettings:
    """How ranks are divided; what is left over is data parallelism."""

    tensor_model_parallel_size: int = 1  # ranks that share each weight matrix and attention head group
    pipeline_model_parallel_size: int = 1  # stages that the layers are divided over
    virtual_pipeline_model_parallel_size: int | None = None  # model chunks per stage; null: not interleaved
    expert_model_parallel_size: int = 1  # ranks that the experts of a layer are divided over
    expert_tensor_parallel_size: int | None = None  # null: the tensor parallel size
    context_parallel_size: int = 1  # only 1 is supported
    sequence_parallel: bool | None = None  # null: on when tensor_model_parallel_size > 1
    # Under sequence parallelism rows travel between tensor-parallel ranks in so many pieces, each beside the product of
    # the one before; null: one for 1,024 tokens, at most 4; 1: in one, before or behind its product.
    sequence_pieces: int | None = None
    # Under expert parallelism rows travel in so many pieces, each for a part of every rank's experts and beside the
    # products of another piece; null: 2; 1: before and behind all products.
    expert_pieces: int | None = None
    # A stage sends on its input's gradient before it makes those of its weights, and of so many micro-batches these may
    # wait for the end of the step, where the pipeline drains: of each stage, the first 0. null: they are made within
    # the backward pass.
    delayed_weight_gradients: list[int] | None = None
    # Gradients are reduced and updated weights gathered while others are computed; false: between the passes.
    overlap_data_parallel: bool = True
    # What a level split counts as one layer more: the embedding (and vision), the LM head.
    account_for_embedding_in_pipeline_split: bool = False
    account_for_loss_in_pipeline_split: bool = False  # the same for the LM head
    # Layers of each pipeline chunk along the network: PP x virtual stages of them, chunk c on stage c % PP. The first
    # has the embedding and the vision tower besides, the last the LM head. null: a level split.
    layers_per_chunk: list[int] | None = None

    def __post_init__(self) -> None:
        if self.virtual_pipeline_model_parallel_size == 1:
            self.virtual_pipeline_model_parallel_size = None

    def validate(self) -> None:
        for name in ("tensor_model", "pipeline_model", "expert_model", "context"):
            setting = f"{name}_parallel_size"
            at_least(f"parallel.{setting}", getattr(self, setting), 1)
        if self.context_parallel_size != 1:
            raise SettingsError(
                f"parallel.context_parallel_size={self.context_parallel_size} is not supported: set it to 1 and "
                "use tensor_model_parallel_size with sequence_parallel for long rows"
            )
        if self.sequence_parallel and self.tensor_model_parallel_size == 1:
            raise SettingsError("parallel.sequence_parallel=true needs tensor_model_parallel_size > 1: set it to null")
        virtual = self.virtual_pipeline_model_parallel_size
        if virtual is not None:
            at_least("parallel.virtual_pipeline_model_parallel_size", virtual, 1)
            if self.pipeline_model_parallel_size == 1:
                raise SettingsError(
                    f"parallel.virtual_pipeline_model_parallel_size={virtual} needs pipeline_model_parallel_size > 1: "
                    "set it to null"
                )
        if self.delayed_weight_gradients is not None:
            self._check_delayed_gradients(self.delayed_weight_gradients)
        for setting, pieces in (("sequence_pieces", self.sequence_pieces), ("expert_pieces", self.expert_pieces)):
            if pieces is not None:
                at_least(f"parallel.{setting}", pieces, 1)
        if self.expert_tensor_parallel_size is not None:
            at_least("parallel.expert_tensor_parallel_size", self.expert_tensor_parallel_size, 1)
        if self.layers_per_chunk is not None:
            self._check_layers_per_chunk(self.layers_per_chunk)

    def _check_delayed_gradients(self, counts: list[int]) -> None:
        setting, stages = f"parallel.delayed_weight_gradients={counts}", self.pipeline_model_parallel_size
        if stages == 1 or self.virtual_pipeline_model_parallel_size is not None:
            raise SettingsError(f"{setting} is for pipelines without virtual stages: set it to null")
        if len(counts) != stages or counts[0] or min(counts) < 0:
            raise SettingsError(
                f"{setting}: expected {stages} counts of 0 or more, one for each of "
                f"pipeline_model_parallel_size={stages} stages, and 0 for the first, for which no other waits"
            )

    def _check_layers_per_chunk(self, counts: list[int]) -> None:
        setting, chunks = f"parallel.layers_per_chunk={counts}", self.num_pipeline_chunks
        if len(counts) != chunks:
            raise SettingsError(
                f"{setting} has {len(counts)} counts, expected {chunks}: one for each of "
                f"pipeline_model_parallel_size={self.pipeline_model_parallel_size} x "
                f"virtual_pipeline_model_parallel_size={self.virtual_pipeline_model_parallel_size or 1} chunks"
            )
        if min(counts) < 0 or 0 in counts[1:-1]:
            raise SettingsError(
                f"{setting}: each chunk needs a layer; only the first, which has the embedding and the vision tower, "
                "and the last, which has the LM head, can do with 0"
            )
        for part in ("embedding", "loss"):
            if getattr(self, f"account_for_{part}_in_pipeline_split"):
                raise SettingsError(
                    f"{setting} says where layers are, so parallel.account_for_{part}_in_pipeline_split=true, which is "
                    "for a level split, has no meaning: set it to false"
                )

    @property
    def num_pipeline_chunks(self) -> int:
        return self.pipeline_model_parallel_size * (self.virtual_pipeline_model_parallel_size or 1)

    @property
    def use_sequence_parallel(self) -> bool:
        return self.tensor_model_parallel_size > 1 if self.sequence_parallel is None else self.sequence_parallel

    @property
    def sequence_multiple(self) -> int:
        """Packed sequences of a data-parallel rank come in multiples of this: the interleaved schedule's groups."""
        return 1 if self.virtual_pipeline_model_parallel_size is None else self.pipeline_model_parallel_size

    def data_parallel_size(self, world_size: int) -> int:
        """Ranks that hold other data. Raises SettingsError when the layout does not divide the world."""
        model, experts = self._group_sizes()
        for what, size in (("tensor x pipeline", model), ("expert tensor x expert x pipeline", experts)):
            if world_size % size:
                raise SettingsError(
                    f"{world_size} {'rank is' if world_size == 1 else 'ranks are'} not a multiple of {what} = {size}: "
                    "change the parallel sizes or the number of ranks (editcaption plan CONFIG --gpus N --mode search "
                    "finds sizes; docs/gpu_counts.md lists them for shipped configurations)"
                )
        return world_size // model

    @property
    def model_parallel_size(self) -> int:
        """Ranks that share the same samples."""
        return self._group_sizes()[0]

    @property
    def rank_multiple(self) -> int:
        """The number of ranks is a multiple of this."""
        return math.lcm(*self._group_sizes())

    def _group_sizes(self) -> tuple[int, int]:
        """Ranks that hold a whole model but for its experts, and those that hold all experts."""
        expert_tensor = self.expert_tensor_parallel_size or self.tensor_model_parallel_size
        experts = expert_tensor * self.expert_model_parallel_size
        stages = self.pipeline_model_parallel_size
        return self.tensor_model_parallel_size * stages, experts * stages
