"""The functions of `import editcaption_mega`: what the commands do, for Python. PyTorch is imported by calls alone."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcaption_mega.data.shards.reader import open_shards
from editcaption_mega.files import parse_json

if TYPE_CHECKING:
    from editcaption_mega.inference.own_pictures import Captioner
    from editcaption_mega.settings import JobSettings
    from editcaption_mega.training.session import Ending

__all__ = ["TrainingResult", "caption", "load_captioner", "log_probs", "open_shards", "train_dpo", "train_sft"]


@dataclass(frozen=True)
class TrainingResult:
    """How a training job ended.

    step: the last step. checkpoint: the newest one, None where none was written. metrics: of the last step, as
    metrics.jsonl has them. signal: the number of the signal that stopped it, 0 where it ended by itself."""

    step: int
    checkpoint: Path | None
    metrics: dict[str, Any]
    signal: int = 0


def load_captioner(model: str | Path, *, prompt: str | Path = "", max_tokens: int = 256) -> "Captioner":
    """A model to be asked more than once: give it to `caption` as its `model`.

    model: a Hugging Face folder of a Qwen3-VL. prompt: the file it was trained with, "" for the built-in one. Raises
    ValueError for a folder or prompt that cannot be used."""
    from editcaption_mega.inference.own_pictures import Captioner, CaptionOptions

    return Captioner(model, CaptionOptions(prompt=prompt, max_tokens=max_tokens))


def caption(source: str | Path, target: str | Path, *, model: "str | Path | Captioner") -> str:
    """The instruction that leads from the picture `source` to the picture `target`, as `model` writes it.

    source, target: files (JPEG, PNG, WebP, GIF, BMP, TIFF). model: a Hugging Face folder, or what `load_captioner`
    gives. Raises ValueError for a picture or folder that cannot be used, and where the model writes no instruction.
    Warns where the text was cut off."""
    from editcaption_mega.inference.own_pictures import Captioner, PictureFile

    pictures = PictureFile.read(source), PictureFile.read(target)
    captioner = model if isinstance(model, Captioner) else load_captioner(model)
    answer = captioner.answer(*pictures)
    if not answer.text:
        raise ValueError(f"the model wrote no instruction: {answer.reason}")
    if answer.status == "truncated":
        warnings.warn(f"the instruction was {answer.reason}", stacklevel=2)
    return answer.text


def train_sft(config: str | Path | None = None, settings: Mapping[str, Any] | None = None) -> TrainingResult:
    """Supervised fine-tuning, as `editcaption train-sft CONFIG key=value ..`, in this process.

    config: a YAML file, or the name of a shipped one ("sft_qwen3_vl_2b"). settings: what replaces some of it, by dotted
    name: {"training.steps": 100, "data.shards": ["data/sft"]}. A run that is there already goes on. Under torchrun
    each rank calls it. Raises SettingsError (a ValueError) before any work for what cannot be done."""
    from editcaption_mega.settings import JobSettings

    loaded = _loaded(config, settings, JobSettings)
    from editcaption_mega.training import run_sft

    return _result(loaded, run_sft(loaded))


def train_dpo(config: str | Path | None = None, settings: Mapping[str, Any] | None = None) -> TrainingResult:
    """Preference optimization (DPO and its variants), as `train_sft` otherwise."""
    from editcaption_mega.settings import DPOSettings, overrides_of, refuse_sft

    loaded = _loaded(config, settings, DPOSettings)
    if config is not None:
        refuse_sft(loaded, config, overrides_of(settings or {}))
    from editcaption_mega.training import run_dpo

    return _result(loaded, run_dpo(loaded))


def log_probs(
    checkpoint: str | Path,
    shards: str | Path | Sequence[str | Path],
    output: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """The log-probability of every answer in shards, in nats: the lines of `output`, a new file.

    checkpoint: Megatron checkpoint, run folder or Hugging Face folder. settings: as of `train_sft`, such as
    {"data.sequence_length": 4096}; precision is fp32 unless they say otherwise. Of a pair with an instruction: {"id",
    "log_prob", "token_log_probs"}; with a preference: {"id", "chosen": {..}, "rejected": {..}}. Raises ValueError for
    what cannot be scored, and InterruptedError when a signal stopped it; the same call then goes on."""
    folders = [shards] if isinstance(shards, str | Path) else list(shards)
    given = {
        "model.folder": "-",
        "model.checkpoint": str(checkpoint),
        "data.shards": list(map(str, folders)),
        "training.output": "-",
        "training.precision": "fp32",
    }
    from editcaption_mega.settings import JobSettings, load_settings, overrides_of

    loaded = load_settings(None, overrides_of({**given, **(settings or {})}), JobSettings)
    from editcaption_mega.training.log_probs import log_probs_of_shards

    ending = log_probs_of_shards(loaded, Path(output), with_tokens=False)
    if ending.signal:
        raise InterruptedError(f"stopped by signal {ending.signal}; the same call goes on from there")
    with open(output, encoding="utf-8") as file:
        return [parse_json(line) for line in file][1:]


def _loaded[Kind: "JobSettings"](
    config: str | Path | None, settings: Mapping[str, Any] | None, kind: type[Kind]
) -> Kind:
    from editcaption_mega.settings import check_paths, load_settings, overrides_of

    loaded = load_settings(config, overrides_of(settings or {}), kind)
    check_paths(loaded)
    return loaded


def _result(settings: "JobSettings", ending: "Ending") -> TrainingResult:
    from editcaption_mega.conversion.checkpoint_folders import checkpoints

    output = Path(settings.training.output)
    metrics: dict[str, Any] = {}
    if (output / "metrics.jsonl").is_file():
        with open(output / "metrics.jsonl", encoding="utf-8") as file:
            for line in file:
                metrics = parse_json(line)
    return TrainingResult(ending.step, next(reversed(checkpoints(output)), None), metrics, ending.signal)
