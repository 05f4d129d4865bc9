"""What a training job is. Every field has its unit or its choices beside it; `validate` checks what needs no files.

Messages name the setting, what was found and the mend.
"""

import math
from dataclasses import dataclass, field

from .checkpoints import CheckpointSettings
from .checks import SettingsError, at_least, choice, within
from .endurance import BadStepSettings, WatchdogSettings
from .pictures import PixelLimits

# What layers are built of; model/layers.py has the modules of each.
FLASH_ATTENTIONS = (2, 3)
BACKENDS = ("torch", "transformer_engine")

# What `recompute: selective` can compute again: attention between its projections, the two norms before attention and
# feed-forward, the dense feed-forward, the whole mixture of experts, or the activation inside its experts alone. The
# others of Megatron's are of layers that Qwen3-VL lacks.
RECOMPUTE_MODULES = ("core_attn", "layernorm", "mlp", "moe", "moe_act")


@dataclass
class ModelSettings:
    """Which model, from where its weights come, and how its layers are computed."""

    folder: str = ""  # Hugging Face folder: config.json, tokenizer, image processor; weights too unless `checkpoint`
    checkpoint: str = ""  # Megatron checkpoint to start from instead of the folder's weights; "" for none
    backend: str = "torch"  # one of BACKENDS
    recompute: str = "none"  # none | selective (recompute_modules of each layer) | full (layers, and vision blocks)
    recompute_modules: list[str] = field(default_factory=lambda: ["core_attn"])  # selective: of RECOMPUTE_MODULES
    # full: uniform (all layers, in units of recompute_num_layers) | block (so many layers of each chunk, singly)
    recompute_method: str = "uniform"
    recompute_num_layers: int = 1
    recompute_vision: bool | None = None  # blocks of the vision tower; null: with full
    flash_attention: int = 2  # on GPUs, of the torch backend: 2, PyTorch's own | 3, of flash-attn-3, Hopper only
    kernels: str = "auto"  # auto: the compiled ones, which a job on GPUs must have | torch: plain PyTorch, slower
    # Weight gradients are added up in fp32 by the products that make them; false: made in the weights' precision first.
    fused_weight_gradients: bool = True
    max_logits_gib: float = 4.0  # logits of a row's response tokens kept for backward; beyond, they are computed again
    router_aux_loss: float = 0.0  # coefficient of the load-balancing loss; 0 for none (and for dense models)

    def validate(self) -> None:
        if not self.folder:
            raise SettingsError("model.folder is empty: name a Hugging Face Qwen3-VL folder")
        choice("model.backend", self.backend, BACKENDS)
        choice("model.kernels", self.kernels, ("auto", "torch"))
        self._check_flash_attention()
        self._check_recompute()
        at_least("model.router_aux_loss", self.router_aux_loss, 0)
        if self.max_logits_gib <= 0:
            raise SettingsError(f"model.max_logits_gib={self.max_logits_gib} must be above 0")

    def _check_flash_attention(self) -> None:
        if self.flash_attention not in FLASH_ATTENTIONS:
            raise SettingsError(f"model.flash_attention={self.flash_attention} is not one of 2, 3")
        if self.flash_attention != 2 and self.backend != "torch":
            raise SettingsError(
                f"model.flash_attention={self.flash_attention} has a meaning with model.backend=torch only, which is "
                f"{self.backend} and chooses its attention itself: leave it out"
            )

    def _check_recompute(self) -> None:
        choice("model.recompute", self.recompute, ("none", "selective", "full"))
        choice("model.recompute_method", self.recompute_method, ("uniform", "block"))
        at_least("model.recompute_num_layers", self.recompute_num_layers, 1)
        if self.recompute == "selective" and not self.recompute_modules:
            raise SettingsError("model.recompute_modules is empty: name a module, or set model.recompute=none")
        for module in self.recompute_modules:
            choice("model.recompute_modules", module, RECOMPUTE_MODULES)
        if {"moe", "moe_act"} <= set(self.recompute_modules):
            raise SettingsError("model.recompute_modules has moe, which includes moe_act: leave one of them out")
        # What would be ignored is refused: whoever sets it expects memory that would not be there.
        defaults = ModelSettings()
        for name, kind in (
            ("recompute_modules", "selective"), ("recompute_method", "full"), ("recompute_num_layers", "full"),
        ):  # fmt: skip
            value = getattr(self, name)
            if self.recompute != kind and value != getattr(defaults, name):
                raise SettingsError(
                    f"model.{name}={value} has a meaning with model.recompute={kind} only, which is {self.recompute}: "
                    "set that, or leave it out"
                )


@dataclass
class DataSettings(PixelLimits):
    """Which shards, and how samples become rows."""

    shards: list[str] = field(default_factory=list)  # folders written by tools/make_shards.py
    sequence_length: int = 4096  # tokens in one row at most; a longer sample is an error, never truncated
    packing: bool = True  # several samples in one row; false: one sample per row
    shared_prompt: bool = True  # a preference pair is [prompt | chosen | rejected]; false: two whole sequences
    shuffle: bool = True
    prompt: str = ""  # YAML file with another prompt; "" for the built-in one (editcaption_mega/data/text/prompt.yaml)
    prefetch_steps: int = 2  # steps prepared ahead
    workers: int = 2  # per rank: what reads, tokenizes and decodes ahead
    worker_processes: bool | None = None  # workers are processes, not threads of the rank; null: where there are GPUs

    def validate(self) -> None:
        if not self.shards:
            raise SettingsError("data.shards is empty: name at least one folder written by tools/make_shards.py")
        at_least("data.sequence_length", self.sequence_length, 16)
        self.check_pixels("data")
        at_least("data.prefetch_steps", self.prefetch_steps, 1)
        within("data.workers", self.workers, 1, 1024)


@dataclass
class ParallelSettings:
    """How ranks are divided; what is left over is data parallelism."""

    tensor_model_parallel_size: int = 1
    pipeline_model_parallel_size: int = 1
    virtual_pipeline_model_parallel_size: int | None = None  # model chunks per stage; null: not interleaved
    expert_model_parallel_size: int = 1
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
    account_for_loss_in_pipeline_split: bool = False
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
        """Ranks that hold other data. Raises ValueError when the layout does not divide the world."""
        model, experts = self._group_sizes()
        for what, size in (("tensor x pipeline", model), ("expert tensor x expert x pipeline", experts)):
            if world_size % size:
                raise ValueError(
                    f"{world_size} ranks are not a multiple of {what} = {size}: change the parallel sizes or the "
                    "number of ranks"
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


@dataclass
class OptimizerSettings:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 1e-5
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.1  # not on biases, norms and other 1-D parameters
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad: float = 1.0  # global gradient norm; 0: no clipping
    # Learning-rate multipliers per module; 0 freezes a module. Nothing is frozen by default.
    vision: float = 1.0
    merger: float = 1.0  # main and DeepStack mergers
    language: float = 1.0
    router: float = 1.0

    def validate(self) -> None:
        for name in ("learning_rate", "eps"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"optimizer.{name}={getattr(self, name)} must be above 0")
        for name in ("min_learning_rate", "warmup_steps", "weight_decay", "clip_grad", *self.multipliers()):
            at_least(f"optimizer.{name}", getattr(self, name), 0)
        if self.min_learning_rate > self.learning_rate:
            raise SettingsError(
                f"optimizer.min_learning_rate={self.min_learning_rate} is above learning_rate={self.learning_rate}"
            )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"optimizer.{name}={getattr(self, name)} must lie in [0, 1)")
        if not any(self.multipliers().values()):
            raise SettingsError("optimizer: vision, merger, language and router are all 0, so nothing would be trained")

    def multipliers(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("vision", "merger", "language", "router")}


@dataclass
class TrainingSettings:
    """The run: its folder, how long it is, its batch, seed and precision."""

    output: str = ""  # run folder
    steps: int = 0  # optimizer steps; 0: from `epochs`
    epochs: float = 1.0  # passes over the data when steps is 0
    global_batch_size: int = 32  # samples per optimizer step, over all ranks
    precision: str = "bf16"  # bf16 (fp32 master weights) | fp32
    seed: int = 1234
    deterministic: bool = False  # on GPUs: the same numbers bit for bit from run to run, slower; CPUs have them anyway
    log_every: int = 1  # steps between progress lines; metrics.jsonl has every step
    stop_after: int = 0  # leave cleanly (with a checkpoint) after this many steps of this process; 0: never

    def validate(self) -> None:
        if not self.output:
            raise SettingsError("training.output is empty: name the run folder")
        at_least("training.steps", self.steps, 0)
        if self.steps == 0 and self.epochs <= 0:
            raise SettingsError(f"training.epochs={self.epochs} must be above 0 when training.steps is 0")
        at_least("training.global_batch_size", self.global_batch_size, 1)
        choice("training.precision", self.precision, ("bf16", "fp32"))
        at_least("training.log_every", self.log_every, 1)
        at_least("training.stop_after", self.stop_after, 0)


@dataclass
class JobSettings:
    """An SFT job, whole."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    parallel: ParallelSettings = field(default_factory=ParallelSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    watchdog: WatchdogSettings = field(default_factory=WatchdogSettings)
    bad_steps: BadStepSettings = field(default_factory=BadStepSettings)

    def validate(self) -> None:
        """Raise SettingsError for the first setting that cannot work, before anything is read or built."""
        for part in (
            self.model, self.data, self.parallel, self.optimizer, self.checkpoint, self.training, self.watchdog,
            self.bad_steps,
        ):  # fmt: skip
            part.validate()
        delayed = self.parallel.delayed_weight_gradients
        if delayed and (self.model.backend != "torch" or not self.model.fused_weight_gradients):
            raise SettingsError(
                f"parallel.delayed_weight_gradients={delayed} needs model.backend=torch and "
                "model.fused_weight_gradients=true: set them so, or it to null"
            )
