"""YAML and dotted overrides -> settings. Unknown keys and wrong types are errors that name the key."""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast, get_args, get_origin, overload

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from editcaption_mega.files import plain_file
from editcaption_mega.words import SECRET_NAME

from .checks import SettingsError, choice
from .job import JobSettings
from .shipped import find_config, mend_of_missing, with_shipped_files

_ROWS = (
    "there is none: samples are packed into rows of data.sequence_length tokens, a row is a micro-batch, and as many "
    "rows as training.global_batch_size needs are accumulated"
)
_SCHEDULE = "did you mean 'optimizer.schedule' (constant, linear, cosine or wsd)?"
_WARMUP = "did you mean 'optimizer.warmup_ratio' (a share of all steps)?"
_WEIGHTS = "did you mean 'data.weights' (one for each folder of data.shards)?"
_ADAPTERS = "did you mean 'model.adapters.{}'?"
_HELD_OUT = "did you mean 'data.held_out' (folders of shards) or 'data.held_out_share', with evaluation.every?"
_LOGGERS = "did you mean 'training.loggers' (of tensorboard, wandb, mlflow)?"
_KEY = "there is none: settings are kept in config.yaml, and keys must not be; use `wandb login` or WANDB_API_KEY"
# Other programs' names: what the setting is called here, or why there is none.
ELSEWHERE = {
    "api_key": _KEY,
    "bf16": "did you mean 'training.precision' (bf16 or fp32)?",
    "batch_size": "did you mean 'training.global_batch_size' (samples per optimizer step, over all ranks)?",
    "cutoff_len": "did you mean 'data.sequence_length'?",
    "data_parallel_size": "there is none: it is the number of ranks divided by the other sizes",
    "early_stopping_patience": "did you mean 'evaluation.patience'?",
    "ep": "did you mean 'parallel.expert_model_parallel_size'?",
    "eval_dataset": _HELD_OUT,
    "eval_shards": _HELD_OUT,
    "eval_steps": "did you mean 'evaluation.every'?",
    "expert_parallel_size": "did you mean 'parallel.expert_model_parallel_size'?",
    "fp16": "did you mean 'training.precision' (bf16 or fp32)?",
    "gradient_accumulation_steps": _ROWS,
    "gradient_checkpointing": "did you mean 'model.recompute' (none, selective or full)?",
    "grad_clip": "did you mean 'optimizer.clip_grad'?",
    "interleave_probs": _WEIGHTS,
    "load_best_model_at_end": "did you mean 'checkpoint.keep_best'?",
    "lora_alpha": _ADAPTERS.format("alpha"),
    "lora_dropout": _ADAPTERS.format("dropout"),
    "lora_r": _ADAPTERS.format("rank"),
    "lora_rank": _ADAPTERS.format("rank"),
    "lr": "did you mean 'optimizer.learning_rate'?",
    "lr_decay_iters": "there is none: the learning rate falls to the last step (training.steps or training.epochs)",
    "lr_decay_style": _SCHEDULE,
    "lr_scheduler_type": _SCHEDULE,
    "lr_warmup_fraction": _WARMUP,
    "lr_warmup_iters": "did you mean 'optimizer.warmup_steps'?",
    "lr_wsd_decay_iters": "did you mean 'optimizer.decay_steps'?",
    "lr_wsd_decay_style": "did you mean 'optimizer.decay_form' (linear, cosine, exponential or minus_sqrt)?",
    "max_grad_norm": "did you mean 'optimizer.clip_grad'?",
    "max_length": "did you mean 'data.sequence_length'?",
    "max_samples": "did you mean 'data.max_samples'?",
    "max_train_samples": "did you mean 'data.max_samples'?",
    "max_steps": "did you mean 'training.steps'?",
    "max_seq_length": "did you mean 'data.sequence_length'?",
    "metric_for_best_model": "did you mean 'evaluation.metric'?",
    "micro_batch_size": _ROWS,
    "min_lr": "did you mean 'optimizer.min_learning_rate'?",
    "model_name_or_path": "did you mean 'model.folder'?",
    "name": "did you mean 'model.folder'?",
    "num_decay_steps": "did you mean 'optimizer.decay_steps'?",
    "num_train_epochs": "did you mean 'training.epochs'?",
    "output_dir": "did you mean 'training.output'?",
    "per_device_train_batch_size": _ROWS,
    "pipeline_parallel_size": "did you mean 'parallel.pipeline_model_parallel_size'?",
    "pp": "did you mean 'parallel.pipeline_model_parallel_size'?",
    "probabilities": _WEIGHTS,
    "report_to": _LOGGERS,
    "run_name": "did you mean 'wandb.name' or 'mlflow.name'?",
    "save_steps": "did you mean 'checkpoint.every'?",
    "schedule": _SCHEDULE,
    "scheduler": _SCHEDULE,
    "target_modules": _ADAPTERS.format("modules"),
    "tensor_parallel_size": "did you mean 'parallel.tensor_model_parallel_size'?",
    "tp": "did you mean 'parallel.tensor_model_parallel_size'?",
    "use_dora": _ADAPTERS.format("dora"),
    "use_rslora": _ADAPTERS.format("rslora"),
    "val_size": _HELD_OUT,
    "validation_shards": _HELD_OUT,
    "validation_split": _HELD_OUT,
    "warmup_ratio": _WARMUP,
    "wandb_project": "did you mean 'wandb.project', with training.loggers=[tensorboard,wandb]?",
}
_NOT_CONVERTED = re.compile(r"Value (?P<value>'.*') of type '\w+' could not be converted to (?P<kind>Integer|Float)$")
_EXPECTED = {"Integer": "a whole number", "Float": "a number"}
OF_PREFERENCES = ("preference", "reference")  # sections that DPO has and SFT has not
# Where they are looked for.
_TRAINING = ("training", "data", "optimizer", "checkpoint", "parallel", "model", "wandb", "mlflow")


class Settings(Protocol):
    """A dataclass of settings that can tell whether they fit together."""

    def validate(self) -> None: ...


@overload
def load_settings(path: str | Path | None, overrides: list[str] | None = None) -> JobSettings: ...
@overload
def load_settings[Kind: Settings](path: str | Path | None, overrides: list[str] | None, kind: type[Kind]) -> Kind: ...
def load_settings(
    path: str | Path | None, overrides: list[str] | None = None, kind: type[Any] = JobSettings
) -> Settings:
    """Read `path`, apply overrides such as `optimizer.learning_rate=1e-5`, validate. -> a `kind`.

    path: a file, or the name of a shipped one (`find_config`); None: defaults.
    Raises SettingsError with one sentence for a missing file, bad YAML, an unknown key or a wrong value."""
    merged = OmegaConf.structured(kind)
    if path is not None:
        document = read_yaml(path, find_config(path), mend_of_missing(path, kind))
        if not isinstance(document, DictConfig):
            raise SettingsError(f"{path} holds no settings: expected sections such as model:, data:, training:")
        merged = _merge(kind, merged, document, str(path))
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise SettingsError(f"override {override!r} is not of the form key=value, such as training.steps=100")
        shown = f"{key}=[hidden]" if SECRET_NAME.search(key) else override
        try:
            given = OmegaConf.from_dotlist([override])
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise SettingsError(
                f"override {shown!r}: its value is not valid YAML ({_yaml_problem(error)}); a list is [a,b], in "
                "quotes where the shell would take it apart"
            ) from None
        merged = _merge(kind, merged, given, f"override {shown!r}")
    try:
        values = with_shipped_files(_container(merged, resolve=True))
    except OmegaConfBaseException as error:
        raise SettingsError(f"{getattr(error, 'full_key', None)}: {str(error).splitlines()[0]}") from None
    _refuse_endless(values)
    settings: Settings = _construct(kind, values)
    settings.validate()
    return settings


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Settings by dotted name as the command line has them; JSON is YAML."""
    return [f"{key}={json.dumps(value, default=str, ensure_ascii=False)}" for key, value in values.items()]


def read_yaml(name: str | Path, path: Path, mend: str) -> Any:
    """What OmegaConf makes of a file that the user knows by this name. Raises SettingsError where it cannot be read,
    with `mend` where there is none."""
    try:
        return OmegaConf.load(plain_file(path))
    except FileNotFoundError:
        raise SettingsError(f"{name} does not exist: {mend}") from None
    except OSError as error:
        raise SettingsError(f"{name}: {error.strerror}: {mend}") from None
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise SettingsError(f"{name} is not valid YAML: {_yaml_problem(error)}") from None


def _refuse_endless(value: Any, where: str = "") -> None:
    """Raises SettingsError for a number that is none (nan) or has no end (inf), wherever it stands: comparisons let it
    through, and JSON has no form for it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{where}={value} is no number to work with: give a finite one")
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, part in parts:
        _refuse_endless(part, f"{where}.{name}" if where else str(name))


def save_settings(settings: Settings, path: str | Path) -> None:
    """Write the resolved settings as YAML that `load_settings` reads back."""
    OmegaConf.save(OmegaConf.structured(settings), path)


def _yaml_problem(error: Exception) -> str:
    """What is wrong, with line and column where the parser knows them."""
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark) is not None:
        hint = '; a text that begins with * has quotes of its own: "*_proj"' if "alias" in str(error.problem) else ""
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}{hint}"
    return str(error).splitlines()[0]


def _wrong_value(error: OmegaConfBaseException) -> str:
    key, words = getattr(error, "full_key", None), str(error).splitlines()[0]
    if match := _NOT_CONVERTED.match(words):
        return f"{key} is {match['value']}, expected {_EXPECTED[match['kind']]}"
    return f"{key}: {words}"


def _merge(kind: type, base: DictConfig, more: DictConfig, where: str) -> DictConfig:
    values = _container(more)
    _check_keys(kind, values, where)
    try:
        return cast(DictConfig, OmegaConf.merge(base, OmegaConf.create(_completed(kind, values))))
    except OmegaConfBaseException as error:
        raise SettingsError(f"{where}: {_wrong_value(error)}") from None


def _container(config: DictConfig, *, resolve: bool = False) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=resolve))


def _types(kind: Any) -> dict[str, Any]:
    """Field -> its type, of a dataclass of settings."""
    return {field.name: field.type for field in dataclasses.fields(kind)}


def _completed(kind: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Values as they are meant: nothing after `key=` or `key:` is an empty text, one text is a list of one."""
    types = _types(kind)

    def complete(wanted: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(wanted) and isinstance(value, dict):
            return _completed(wanted, value)
        if part := _part_of_list(wanted):
            return [_completed(part, item) for item in value]
        if wanted is str and value is None:
            return ""
        if get_origin(wanted) is list and get_args(wanted) == (str,):
            return [] if value is None else [value] if isinstance(value, str) and not value.startswith("${") else value
        return value

    return {key: complete(types[key], value) for key, value in values.items()}


def _check_keys(kind: Any, values: dict[str, Any], where: str, prefix: str = "") -> None:
    known = _types(kind)
    for key, value in values.items():
        if key not in known:
            raise SettingsError(f"{where}: unknown setting '{prefix}{key}': {_mend(known, str(key), prefix)}")
        if dataclasses.is_dataclass(known[key]):
            if not isinstance(value, dict):
                raise SettingsError(f"{where}: '{prefix}{key}' must be a section of settings, found {value!r}")
            _check_keys(known[key], value, where, f"{prefix}{key}.")
        elif part := _part_of_list(known[key]):
            if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
                raise SettingsError(f"{where}: '{prefix}{key}' must be a list of sections, found {value!r}")
            for number, one in enumerate(value):
                _check_keys(part, one, where, f"{prefix}{key}[{number}].")
        elif known[key] in (bool, bool | None) and isinstance(value, int | float) and value not in (0, 1):
            raise SettingsError(f"{where}: {prefix}{key} is {value!r}, expected true or false: it counts nothing")
        elif known[key] == list[int] | None and not isinstance(value, list | None) and not str(value).startswith("${"):
            raise SettingsError(f"{where}: {prefix}{key} is {value!r}, expected a list of numbers, such as [0,1]")
        elif get_origin(known[key]) is Literal and not str(value).startswith("${"):
            choice(f"{where}: {prefix}{key}", value, get_args(known[key]))


def _mend(known: dict[str, Any], key: str, prefix: str) -> str:
    """What to write instead of a key that is none."""
    sections = [name for name, wanted in known.items() if dataclasses.is_dataclass(wanted)]
    inside = [name for name in sections if key in _types(known[name])]
    if inside:
        return f"did you mean '{prefix}{inside[0]}.{key}'?"
    if key in ELSEWHERE and (sections or prefix.split(".")[0] in _TRAINING):
        return ELSEWHERE[key]
    if key in OF_PREFERENCES and not prefix and "optimizer" in sections:
        return "of a DPO configuration, which editcaption train-dpo (launch/train_dpo.sh) takes"
    close = difflib.get_close_matches(key, known, n=1)
    return f"did you mean '{prefix}{close[0]}'?" if close else f"known: {', '.join(known)}"


def _part_of_list(kind: Any) -> Any:
    """D for list[D] where D is a dataclass of settings, else None."""
    part = get_args(kind)[0] if get_origin(kind) is list else None
    return part if dataclasses.is_dataclass(part) else None


def _construct(kind: Any, values: dict[str, Any]) -> Any:
    def made(wanted: Any, value: Any) -> Any:
        if dataclasses.is_dataclass(wanted):
            return _construct(wanted, value)
        part = _part_of_list(wanted)
        return [_construct(part, one) for one in value] if part else value

    return kind(**{name: made(wanted, values[name]) for name, wanted in _types(kind).items()})
