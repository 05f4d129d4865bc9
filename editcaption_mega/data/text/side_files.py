"""What a Hugging Face folder says beside its weights: config, tokenizer, processor and chat template.

The files are read once and held, so what is written of them later does not depend on what became of the folder. Where
the same thing may stand in several places, the order is that of transformers' own processor.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.files import parse_json, read_json_object, write_atomically
from editcaption_mega.settings import hub_hint

CONFIG = "config.json"
GENERATION = "generation_config.json"
SIDE_FILES = (
    CONFIG,
    GENERATION,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)
ADAPTER_CONFIG, ADAPTER_BASE = "adapter_config.json", "base_model_name_or_path"  # a PEFT folder's file, and a field
WEIGHT_INDEX, SINGLE_WEIGHTS = "model.safetensors.index.json", "model.safetensors"
# Where a chat template may stand; the first that has one is taken (transformers 5: the processor's places, then the
# tokenizer's). A file of its own, or a field of a JSON object.
CHAT_TEMPLATES = ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json")
_FIELD = "chat_template"
# What of an image processor decides its patches (the pixel limits are the caller's).
PICTURE_KEYS = ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std")


@dataclass(frozen=True)
class SideFiles:
    """The files of `SIDE_FILES` that a folder holds, byte for byte."""

    folder: Path  # where they were read
    contents: Mapping[str, bytes]  # by name

    @classmethod
    def read(cls, folder: str | Path) -> "SideFiles":
        """Of a PEFT folder those of the model that its adapters are on. Raises ValueError in one sentence when there is
        no such folder, or a file cannot be read."""
        path = model_folder(folder)
        if is_peft_folder(path):
            path = named_base(path)
        contents = {}
        for name in SIDE_FILES:
            try:
                if (path / name).exists():
                    contents[name] = (path / name).read_bytes()
            except OSError as error:
                raise ValueError(f"{path / name} cannot be read: {error.strerror}") from None
        return cls(path, contents)

    def require(self, name: str, what: str) -> "SideFiles":
        """Raise ValueError when the folder has no file of this name."""
        if name not in self.contents:
            raise ValueError(
                f"{self.folder} lacks {name}: expected {name} ({what}); copy it from the model's original folder"
            )
        return self

    def write(self, target: str | Path) -> None:
        """Write every file into `target`, which is made. Raises OSError."""
        target = Path(target)
        target.mkdir(parents=True, exist_ok=True)
        for name, content in self.contents.items():
            write_atomically(target / name, content)

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file, {} without the file. Raises ValueError that names the file."""
        if name not in self.contents:
            return {}
        try:
            value = parse_json(self.contents[name])
        except ValueError as error:
            raise ValueError(f"{self.folder / name}: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"{self.folder / name}: expected a JSON object, found {type(value).__name__}")
        return value

    def with_json(self, name: str, value: dict[str, Any]) -> "SideFiles":
        """The same files with another object in one of them; the very same bytes where nothing changes."""
        if name in self.contents and self.json(name) == value:
            return self
        text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
        return SideFiles(self.folder, {**self.contents, name: text.encode()})

    # ---- chat template -----------------------------------------------------------------------------------------------

    def chat_templates(self) -> dict[str, str]:
        """The chat templates by the file that holds them, the one that is taken first; {} without one.

        Raises ValueError for a template of another form."""
        templates = {}
        for name in CHAT_TEMPLATES:
            if name not in self.contents:
                continue
            if name.endswith(".jinja"):
                try:
                    template = self.contents[name].decode()
                except UnicodeDecodeError:
                    raise ValueError(f"{self.folder / name} is not UTF-8: save the template as UTF-8") from None
            else:
                template = self._template_in(name)
            if template.strip():
                templates[name] = template
        return templates

    def with_chat_template(self, template: str) -> "SideFiles":
        """The same files with `template` in every place that has one, so that all readers get the same."""
        files = self
        for name, held in self.chat_templates().items():
            if held == template:
                continue
            if name.endswith(".jinja"):
                files = SideFiles(files.folder, {**files.contents, name: template.encode()})
            else:
                files = files.with_json(name, {**files.json(name), _FIELD: template})
        return files

    def differences(self) -> list[str]:
        """One sentence for each thing that stands in two files in two forms, with the one that is taken."""
        (taken, text), *others = self.chat_templates().items()
        differing = [(taken, name, "chat templates") for name, other in others if other.strip() != text.strip()]
        name, settings = self.image_processor()
        other = self.json("preprocessor_config.json")
        if any(other.get(key, settings.get(key)) != settings.get(key) for key in PICTURE_KEYS):
            differing.append((name, "preprocessor_config.json", "picture settings"))
        return [
            f"{self.folder}: the {what} of {first} and {second} differ: {first} is taken, as transformers takes it"
            for first, second, what in differing
        ]

    def _template_in(self, name: str) -> str:
        value = self.json(name).get(_FIELD)
        if isinstance(value, list):  # several named ones, as the tokenizer keeps them
            named = (entry for entry in value if isinstance(entry, dict) and entry.get("name") == "default")
            value = next(named, {}).get("template", value)
        elif isinstance(value, dict):
            value = value.get("default")
        if value is not None and not isinstance(value, str):
            raise ValueError(
                f"{self.folder / name}: `{_FIELD}` is of type {type(value).__name__}, expected the text of a template"
            )
        return value or ""

    # ---- ends of an answer -------------------------------------------------------------------------------------------

    def end_ids(self) -> list[int]:
        """The ids at which generation_config.json ends an answer. Raises ValueError for anything but ids."""
        ends = self.json(GENERATION).get("eos_token_id")
        ids = [] if ends is None else ends if isinstance(ends, list) else [ends]
        if not all(type(end) is int and end >= 0 for end in ids):
            raise ValueError(
                f"{self.folder / GENERATION}: `eos_token_id` is {ends!r:.80}, expected a token's id, or a list of ids"
            )
        return ids

    def with_end(self, end_id: int) -> "SideFiles":
        """The same files, where an answer ends (at the latest) at this token."""
        if end_id in self.end_ids():
            return self
        return self.with_json(GENERATION, {**self.json(GENERATION), "eos_token_id": [end_id, *self.end_ids()]})

    # ---- image processor ---------------------------------------------------------------------------------------------

    def image_processor(self) -> tuple[str, dict[str, Any]]:
        """Where the settings of the image processor stand, and the settings. Raises ValueError without any."""
        inside = self.json("processor_config.json").get("image_processor")
        if inside is not None:  # as transformers 5 saves a processor
            if not isinstance(inside, dict):
                raise ValueError(
                    f"{self.folder}/processor_config.json: `image_processor` is of type {type(inside).__name__}, "
                    "expected an object"
                )
            return "processor_config.json", inside
        self.require(
            "preprocessor_config.json", "the picture settings; or processor_config.json with `image_processor` inside"
        )
        return "preprocessor_config.json", self.json("preprocessor_config.json")


def weight_index(folder: str | Path) -> dict[str, str] | None:
    """The file of each tensor, as model.safetensors.index.json has it; None for a folder without one.

    Raises ValueError for an index of another form, and for files that are missing or not in the folder itself."""
    path = Path(folder) / WEIGHT_INDEX
    if not path.is_file():
        return None
    files = read_json_object(path).get("weight_map")
    if not isinstance(files, dict) or not files or not all(isinstance(name, str) for name in files.values()):
        raise ValueError(
            f"{path}: expected `weight_map` with the file of each tensor; copy it from the original folder"
        )
    names = sorted(set(files.values()))
    outside = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    if outside:
        raise ValueError(f"{path} names {outside[0]!r:.100}: expected safetensors files in the folder itself")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        raise ValueError(
            f"{folder} lacks {missing[0]}: expected the {len(names)} weight files that {WEIGHT_INDEX} names, found "
            f"{len(names) - len(missing)} (missing: {', '.join(missing[:3])}); copy them from the original folder"
        )
    return files


def model_folder(folder: str | Path) -> Path:
    """The folder as a Path. Raises ValueError when there is none, also for a name on the hub."""
    path = Path(folder)
    if path.is_dir():
        return path
    if path.exists():
        raise ValueError(f"{path} is a file: expected a Hugging Face Qwen3-VL folder")
    raise ValueError(f"{folder}: found no folder, expected one with a Hugging Face Qwen3-VL model{hub_hint(folder)}")


def is_peft_folder(path: str | Path) -> bool:
    return (Path(path) / ADAPTER_CONFIG).is_file()


def named_base(folder: str | Path) -> Path:
    """The folder of the model that the adapters of a PEFT folder are on. Raises ValueError where that is not here."""
    path = Path(folder) / ADAPTER_CONFIG
    name = read_json_object(path).get(ADAPTER_BASE)
    mend = f"write the folder of the weights that the adapters are on as {ADAPTER_BASE}"
    if not name or not isinstance(name, str):
        raise ValueError(f"{path} names no model: {mend}")
    if not Path(name).is_dir():
        raise ValueError(f"{path} names {name:.200}, which is no folder here: {mend}")
    if is_peft_folder(name):
        first = "put those into their weights first"
        raise ValueError(f"{path} names {name:.200}, which holds adapters: {first}, and {mend}")
    return Path(name)
