"""The configurations that come with the package: configs/ of a clone, which an installed package has inside."""

from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parents[1]
_PREFIX = "configs/"


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
