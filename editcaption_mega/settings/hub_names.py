"""Names of models on the Hugging Face hub, given where a folder is wanted."""

import re
from pathlib import Path

_RELEASED = re.compile(r"Qwen3-VL-\d+B(-A\d+B)?-(Instruct|Thinking)(-FP8)?")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+")


def hub_hint(folder: str | Path) -> str:
    """How to make a folder that is not there, behind the sentence that says so: of a released model, or of what is
    written as OWNER/NAME where OWNER is no folder here; "" for anything else. The same words name it then."""
    path = Path(folder)
    if _RELEASED.fullmatch(path.name):
        return f"; download it: hf download Qwen/{path.name} --local-dir {folder}"
    if _HUB_NAME.fullmatch(str(folder)) and not path.parent.exists():
        return f"; if this is a name on the Hugging Face hub, run: hf download {folder} --local-dir {folder}"
    return ""
