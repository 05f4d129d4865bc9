"""Pages of one file: our own styles and scripts, allowed by their hash alone, and data that can end no element."""

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib import resources

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined


def page_environment(*packages: str) -> Environment:
    """Templates of the packages' folders `templates`, the first package's first; whatever they print is escaped."""
    loader = ChoiceLoader([PackageLoader(package) for package in packages])
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def inline(package: str, names: Sequence[str]) -> str:
    """Our own style or script files as one text. They must not end the element that holds them."""
    folder = resources.files(package).joinpath("templates")
    text = "\n".join(folder.joinpath(name).read_text("utf-8").strip() for name in names)
    assert "</" not in text, "the page's own styles and scripts hold no closing tags"
    return text


def inline_script(package: str, names: Sequence[str]) -> str:
    """Script files as one strict function, so that they share names with nothing else."""
    return "(() => {\n'use strict';\n" + inline(package, names) + "\n})();"


def content_hash(text: str) -> str:
    """For the Content-Security-Policy: this text may run or apply, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def script_json(value: object) -> str:
    """JSON that can end no <script> element and break no JavaScript string: without <, U+2028 and U+2029."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
