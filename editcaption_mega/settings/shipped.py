"""The configurations that come with the package: configs/ of a clone, which an installed package has inside."""

import difflib
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
_PREFIX = "configs/"
# A kind of settings -> how names of its configurations begin, and one of them.
_EXAMPLES = {
    "JobSettings": ("sft", "sft_demo"),
    "DPOSettings": ("dpo", "dpo_demo"),
    "EvaluationSettings": ("eval", "eval_demo"),
    "CaptionSettings": ("caption", "caption_qwen3_vl"),
    "ScoreSettings": ("score", "score_editscore"),
}


def shipped_folder() -> Path:
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def find_config(name: str | Path) -> Path:
    """The file of this name; where there is none, the shipped one: sft_qwen3_vl_2b and configs/sft_qwen3_vl_2b.yaml
    alike, from any folder. What is neither comes back as it is."""
    path = Path(name)
    if path.exists():
        return path
    inside = str(name).removeprefix(_PREFIX)
    for candidate in (inside, f"{inside}.yaml"):
        if not Path(inside).is_absolute() and ".." not in path.parts and (shipped_folder() / candidate).is_file():
            return shipped_folder() / candidate
    return path


def mend_of_missing(name: str | Path, kind: type) -> str:
    """What to name where there is no configuration of this name: the shipped one that was meant, or one of its kind."""
    prefix, example = _EXAMPLES.get(kind.__name__, ("", "sft_demo"))
    stem = Path(name).name.removesuffix(".yaml")
    if stem.partition("_")[0] in dict(_EXAMPLES.values()):
        prefix = stem.partition("_")[0]  # of another command, which is what was meant all the same
    names = sorted((path.stem for path in shipped_folder().glob(f"{prefix}_*.yaml")), key=len)
    longer = [each for each in names if len(stem) > len(prefix) + 1 and each.startswith(stem)]
    if close := longer[:1] or difflib.get_close_matches(stem, names, n=1, cutoff=0.75):
        return f"did you mean {close[0]}, which is shipped?"
    return f"name a YAML file such as configs/{example}.yaml"


def with_shipped_files(value: Any) -> Any:
    """Settings in which a path such as configs/demo_prompt.yaml, where the working folder has none, names the shipped
    file."""
    if isinstance(value, dict):
        return {key: with_shipped_files(part) for key, part in value.items()}
    if isinstance(value, list):
        return [with_shipped_files(part) for part in value]
    if isinstance(value, str) and value.startswith(_PREFIX):
        found = find_config(value)
        return str(found) if found.is_file() else value
    return value
