"""What a training job is. Every field has its unit or its choices beside it; `validate` checks what needs no files.

Messages name the setting, what was found and the mend.
"""

import math
import re
from dataclasses import dataclass, field
from fractions import Fraction

from .adapters import AdapterSettings
from .bad_sample_policy import BadSamplePolicy
from .checkpoints import CheckpointSettings
from .checks import SettingsError, at_least, choice, within
from .endurance import BadStepSettings, WatchdogSettings
from .held_out import HeldOutPairs
from .job_optimizer import OptimizerSettings
from .job_parallel import ParallelSettings
from .loggers import MlflowSettings, WandbSettings, check_loggers
from .pictures import PixelLimits
from .sampled_texts import SampleSettings, check_sampling
from .training_evaluation import TrainingEvaluationSettings, check_evaluation

# What layers are built of; model/layers.py has the modules of each.
FLASH_ATTENTIONS = (2, 3)
BACKENDS = ("torch", "transformer_engine")

# What `recompute: selective` can compute again: attention between its projections, the two norms before attention and
# feed-forward, the dense feed-forward, the whole mixture of experts, or the activation inside its experts alone. The
# others of Megatron's are of layers that Qwen3-VL lacks.
RECOMPUTE_MODULES = ("core_attn", "layernorm", "mlp", "moe", "moe_act")

LONGEST_PATTERN = 100_000  # samples after which every folder has given its share exactly


@dataclass
class ModelSettings:
    """Which model, from where its weights come, and how its layers are computed."""

    folder: str = ""  # Hugging Face folder: config.json, tokenizer, image processor; weights too unless `checkpoint`
    checkpoint: str = ""  # Megatron checkpoint to start from instead of the folder's weights; "" for none
    backend: str = "torch"  # torch | transformer_engine
    recompute: str = "none"  # none | selective (recompute_modules of each layer) | full (layers, and vision blocks)
    recompute_modules: list[str] = field(
        default_factory=lambda: ["core_attn"]
    )  # of core_attn, layernorm, mlp, moe, moe_act
    # full: uniform (all layers, in units of recompute_num_layers) | block (so many layers of each chunk, singly)
    recompute_method: str = "uniform"
    recompute_num_layers: int = 1  # full: layers of a unit (uniform), or of a chunk (block)
    recompute_vision: bool | None = None  # blocks of the vision tower; null: with full
    flash_attention: int = 2  # on GPUs, of the torch backend: 2, PyTorch's own | 3, of flash-attn-3, Hopper only
    kernels: str = "auto"  # auto: the compiled ones, which a job on GPUs must have | torch: plain PyTorch, slower
    # Weight gradients are added up in fp32 by the products that make them; false: made in the weights' precision first.
    fused_weight_gradients: bool = True
    max_logits_gib: float = 4.0  # logits of a row's response tokens kept for backward; beyond, they are computed again
    router_aux_loss: float = 0.0  # coefficient of the load-balancing loss; 0 for none (and for dense models)
    adapters: AdapterSettings = field(default_factory=AdapterSettings)

    def validate(self) -> None:
        if not self.folder:
            raise SettingsError("model.folder is empty: name a Hugging Face Qwen3-VL folder")
        choice("model.backend", self.backend, BACKENDS)
        choice("model.kernels", self.kernels, ("auto", "torch"))
        self._check_flash_attention()
        self._check_recompute()
        at_least("model.router_aux_loss", self.router_aux_loss, 0)
        self.adapters.validate()
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
class DataSettings(PixelLimits, HeldOutPairs, BadSamplePolicy):
    """Which shards, and how samples become rows."""

    shards: list[str] = field(default_factory=list)  # folders written by editcaption shards, or addresses of such
    # Where each machine keeps shards of an address; "": $EDITCAPTION_CACHE, else ~/.cache/editcaption_mega
    cache: str = ""
    cache_gib: float = 100.0  # that the tars of an address take there; those used least lately go
    # How much of the samples each folder gives, to one another: each then has epochs of its own. None: the folders are
    # one set.
    weights: list[float] = field(default_factory=list)
    id_prefixes: list[str] = field(default_factory=list)  # before the ids of each folder: where two have the same ids
    max_samples: int = 0  # train on the first so many of the order that the seed gives, again and again; 0: on all
    sequence_length: int = 4096  # tokens in one row at most; a longer sample is an error, never truncated
    packing: bool = True  # several samples in one row; false: one sample per row
    shared_prompt: bool = True  # a preference pair is [prompt | chosen | rejected]; false: two whole sequences
    shuffle: bool = True  # each pass in an order of its own, by training.seed; false: as the shards have the samples
    # Shuffle blocks of so many samples, 16 at a time, so that a slow disk is read in few places; 0: all at once.
    shuffle_block: int = 0
    prompt: str = ""  # YAML file with another prompt; "" for the built-in one (editcaption_mega/data/text/prompt.yaml)
    prefetch_steps: int = 2  # steps prepared ahead
    workers: int = 2  # per rank: what reads, tokenizes and decodes ahead
    worker_processes: bool | None = None  # workers are processes, not threads of the rank; null: where there are GPUs

    def validate(self) -> None:
        if not self.shards:
            raise SettingsError("data.shards is empty: name at least one folder written by editcaption shards")
        self._check_mixture()
        at_least("data.max_samples", self.max_samples, 0)
        at_least("data.shuffle_block", self.shuffle_block, 0)
        if self.shuffle_block and not self.shuffle:
            raise SettingsError("data.shuffle_block does nothing where data.shuffle is false: leave one of them out")
        at_least("data.sequence_length", self.sequence_length, 16)
        self.check_pixels("data")
        self.check_held_out()
        self.check_bad_samples()
        within("data.cache_gib", self.cache_gib, 0.001, 1e9)
        at_least("data.prefetch_steps", self.prefetch_steps, 1)
        within("data.workers", self.workers, 1, 1024)

    @property
    def shares(self) -> list[int]:
        """The weights as they are written (0.7 is 7 / 10), in the smallest whole numbers."""
        fractions = [Fraction(str(weight)) for weight in self.weights]
        whole = [int(part * math.lcm(*(part.denominator for part in fractions))) for part in fractions]
        return [part // math.gcd(*whole) for part in whole]

    def _check_mixture(self) -> None:
        for name, example in (("weights", "0.7,0.3"), ("id_prefixes", "a-,b-")):
            values = getattr(self, name)
            if values and len(values) != len(self.shards):
                raise SettingsError(
                    f"data.{name} has {len(values)} entries and data.shards {len(self.shards)}: give one for each "
                    f"folder, such as [{example}]"
                )
        for prefix in self.id_prefixes:
            if not re.fullmatch(r"[A-Za-z0-9_-]{0,100}", prefix):
                raise SettingsError(
                    f"data.id_prefixes has {prefix!r}, expected up to 100 letters, digits, - and _, as ids have them"
                )
        if self.weights and not min(self.weights) > 0:
            raise SettingsError(
                f"data.weights={self.weights} must all be above 0: leave a folder out of data.shards instead"
            )
        if self.weights and (period := sum(self.shares)) > LONGEST_PATTERN:
            raise SettingsError(
                f"data.weights={self.weights} are met exactly every {period:,} samples only, more than the "
                f"{LONGEST_PATTERN:,} that a pattern may have: round them to four digits, such as [0.3333,0.6667]"
            )


@dataclass
class TrainingSettings:
    """The run: its folder, how long it is, its batch, seed and precision."""

    output: str = ""  # run folder
    steps: int = 0  # optimizer steps; 0: from `epochs`
    epochs: float = 1.0  # passes over the data when steps is 0
    global_batch_size: int = 32  # samples per optimizer step, over all ranks
    precision: str = "bf16"  # bf16 (fp32 master weights) | fp32
    seed: int = 1234  # of the order of the samples and of everything random
    deterministic: bool = False  # on GPUs: the same numbers bit for bit from run to run, slower; CPUs have them anyway
    log_every: int = 1  # steps between progress lines; metrics.jsonl has every step
    loggers: list[str] = field(default_factory=lambda: ["tensorboard"])  # of LOGGERS, beside metrics.jsonl; [] for none
    profile_steps: list[int] | None = None  # first and last step, from 1, of a profile in profile/; null: none
    profile_ranks: str = "first"  # which ranks are profiled: first | all
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
        choice("training.profile_ranks", self.profile_ranks, ("first", "all"))
        steps = self.profile_steps
        if steps is not None and not (len(steps) == 2 and 1 <= steps[0] <= steps[1]):
            raise SettingsError(
                f"training.profile_steps={steps}: expected the first and the last step, counted from 1, such as [10,12]"
            )


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
    evaluation: TrainingEvaluationSettings = field(default_factory=TrainingEvaluationSettings)
    samples: SampleSettings = field(default_factory=SampleSettings)
    wandb: WandbSettings = field(default_factory=WandbSettings)
    mlflow: MlflowSettings = field(default_factory=MlflowSettings)

    def validate(self) -> None:
        """Raise SettingsError for the first setting that cannot work, before anything is read or built."""
        for part in (
            self.model, self.data, self.parallel, self.optimizer, self.checkpoint, self.training, self.watchdog,
            self.bad_steps, self.evaluation, self.samples,
        ):  # fmt: skip
            part.validate()
        check_loggers(self.training.loggers, self.wandb, self.mlflow)
        if self.training.steps:  # else they are known with the data
            self.optimizer.check_steps(self.training.steps)
        check_evaluation(
            self.evaluation, holds_out=self.data.holds_out, keep_best=self.checkpoint.keep_best,
            checkpoint_every=self.checkpoint.every,
        )  # fmt: skip
        check_sampling(self.samples, evaluates=bool(self.evaluation.every))
        delayed = self.parallel.delayed_weight_gradients
        if delayed and (self.model.backend != "torch" or not self.model.fused_weight_gradients):
            raise SettingsError(
                f"parallel.delayed_weight_gradients={delayed} needs model.backend=torch and "
                "model.fused_weight_gradients=true: set them so, or it to null"
            )
