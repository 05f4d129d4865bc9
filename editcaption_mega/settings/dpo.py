"""What a preference job is: an SFT job's settings, the loss, and the reference model."""

from dataclasses import dataclass, field

from .checks import SettingsError, at_least, choice
from .job import JobSettings
from .losses import LOSSES


@dataclass
class PreferenceSettings:
    """The loss; names in settings/losses.py, formulas in kernels/preference_losses.py. reward = beta (log-prob -
    reference)."""

    loss: str = "sigmoid"  # the paper's; one of LOSSES
    beta: float = 0.1  # how far the policy may go from the reference: reward = beta (log-prob - reference)
    label_smoothing: float = 0.0  # share of pairs believed swapped: conservative DPO (sigmoid), robust
    margin: float = 0.0  # by how much the chosen answer's reward must be above the rejected one's; SimPO's gamma
    # Ours, after the adaptive margin of the paper's second version, which prints no formula: pair i needs
    #     margin + weight_i (severity_margin * severity_i + hardness_margin * hardness_i)
    # severity in 0 .. 1 as the pair says; hardness in 0 .. 1: how sure the reference is of the wrong answer
    # (objectives/margins.py); weight: that of the pair's primary failure mode. 0: not used, and need not be there.
    severity_margin: float = 0.0
    hardness_margin: float = 0.0  # the same for hardness
    orientation_weight: float = 1.0  # of pairs whose primary failure mode is orientation
    viewpoint_weight: float = 1.0  # the same for viewpoint
    detail_weight: float = 1.0  # the same for detail
    nll_weight: float = 0.0  # weight of the chosen answer's mean negative log-likelihood per token
    failure_mode_metrics: bool = True  # metrics per failure mode too; every pair must then say its failure_modes

    @property
    def failure_mode_weights(self) -> dict[str, float]:
        """Failure mode -> what multiplies the margins of pairs that fail in it above all."""
        return {
            "orientation": self.orientation_weight,
            "viewpoint": self.viewpoint_weight,
            "detail": self.detail_weight,
        }

    def validate(self) -> None:
        choice("preference.loss", self.loss, tuple(LOSSES))
        if not 0 < self.beta < float("inf"):
            raise SettingsError(
                f"preference.beta={self.beta} must be above 0 and finite: the paper's loss has no other"
            )
        at_least("preference.label_smoothing", self.label_smoothing, 0)
        if self.label_smoothing >= 0.5:
            raise SettingsError(f"preference.label_smoothing={self.label_smoothing} must be below 0.5")
        if self.label_smoothing and not LOSSES[self.loss].smoothed:
            raise SettingsError(
                f"preference.label_smoothing={self.label_smoothing} has no meaning for {self.loss}: set it to 0"
            )
        at_least("preference.severity_margin", self.severity_margin, 0)
        at_least("preference.hardness_margin", self.hardness_margin, 0)
        for mode, weight in self.failure_mode_weights.items():
            at_least(f"preference.{mode}_weight", weight, 0)
            if weight != 1 and not (self.severity_margin or self.hardness_margin):
                raise SettingsError(
                    f"preference.{mode}_weight={weight} multiplies the margins of severity and hardness, and both are "
                    "0: set preference.severity_margin or preference.hardness_margin, or leave the weight at 1"
                )
        if self.hardness_margin and LOSSES[self.loss].reference_free:
            raise SettingsError(
                f"preference.hardness_margin={self.hardness_margin} is of the reference's log-probs, and {self.loss} "
                "has no reference: set it to 0"
            )
        at_least("preference.nll_weight", self.nll_weight, 0)


@dataclass
class ReferenceSettings:
    """The model that the policy is compared with. By default it is the one that training starts from."""

    # auto: adapters_off where there are adapters (model.adapters) and neither checkpoint nor file is named, else stored
    # adapters_off: the policy without its adapters computes them in each step; no second copy, no file
    # stored: its log-probs are computed once, before the first step, and read from a file; half the memory
    # resident: a second, frozen copy of the model in the same layout computes them in each step
    # none: for simpo, which has no reference
    mode: str = "auto"
    checkpoint: str = ""  # Megatron checkpoint, run folder or Hugging Face folder; "": what the policy starts from
    file: str = ""  # stored: written by editcaption log-probs; "": training.output/reference.jsonl, written by the job

    def validate(self) -> None:
        choice("reference.mode", self.mode, ("auto", "adapters_off", "stored", "resident", "none"))
        if self.file and self.mode not in ("auto", "stored"):
            raise SettingsError(
                f"reference.file={self.file} is read with reference.mode=stored only, found {self.mode}"
            )
        if self.checkpoint and self.mode == "adapters_off":
            raise SettingsError(
                f"reference.checkpoint={self.checkpoint} is set, and reference.mode=adapters_off takes the weights "
                "that the adapters are on: choose stored or resident, or leave the checkpoint out"
            )
        if self.checkpoint and self.mode == "none":
            raise SettingsError("reference.checkpoint is set and reference.mode is none: choose stored or resident")


@dataclass
class DPOSettings(JobSettings):
    """Everything an SFT job has, and these two."""

    preference: PreferenceSettings = field(default_factory=PreferenceSettings)
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)

    @property
    def reference_mode(self) -> str:
        """What `auto` comes to."""
        if self.reference.mode != "auto":
            return self.reference.mode
        named = self.reference.file or self.reference.checkpoint
        return "adapters_off" if self.model.adapters.rank and not named else "stored"

    def validate(self) -> None:
        super().validate()
        self.preference.validate()
        self.reference.validate()
        if self.reference.mode == "adapters_off" and not self.model.adapters.rank:
            raise SettingsError(
                "reference.mode=adapters_off needs adapters: set model.adapters.rank above 0, or choose stored or "
                "resident"
            )
        named = self.reference.file or self.reference.checkpoint
        if self.model.adapters.start and self.reference_mode != "none" and not named:
            raise SettingsError(
                f"model.adapters.start={self.model.adapters.start} is no reference when adapters are off, "
                f"and reference.mode={self.reference.mode} takes the weights without them: add these adapters to their "
                "weights first (editcaption convert megatron-to-hf) and start from the result, or "
                "name the reference as reference.checkpoint"
            )
        if self.reference.file and self.data.max_samples:
            raise SettingsError(
                f"reference.file={self.reference.file} is of whole folders, of which "
                f"data.max_samples={self.data.max_samples} trains on a part: leave reference.file empty, and the job "
                "writes its own"
            )
        if self.reference.file and self.data.held_out_share:
            raise SettingsError(
                f"reference.file={self.reference.file} is of all pairs of data.shards, and "
                f"data.held_out_share={self.data.held_out_share} takes some of them away: leave reference.file empty, "
                "and the job writes its own, or hold out pairs of other folders (data.held_out)"
            )
        if LOSSES[self.preference.loss].reference_free != (self.reference_mode == "none"):
            reference_free = [name for name, form in LOSSES.items() if form.reference_free]
            raise SettingsError(
                f"preference.loss={self.preference.loss} with reference.mode={self.reference_mode}: "
                f"{', '.join(reference_free)} has no reference (reference.mode=none) and every other loss needs one "
                "(stored or resident)"
            )
