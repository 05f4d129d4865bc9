"""Where the pairs that a filter kept are from: what it says beside the new shards, and of just their content."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from editcaption_mega.files import parse_json

SURVIVAL = ".survival.json"  # what a filter writes beside FOLDER of its shards, FOLDER.survival.json


def sets_before(pairs: Any) -> list[str]:
    """Fingerprints of the sets from which filters drew these pairs, the last one first; none where that is not known.

    pairs: a `ShardReader` of a filter's folder, or another set with a `fingerprint`. Shards that were altered since, or
    made anew, are of none: the ids may be the same and the pictures others."""
    folders: list[Path] = getattr(pairs, "directories", [])
    if len(folders) != 1:
        return []
    folder = Path(os.path.abspath(folders[0]))
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = parse_json(folder.with_name(folder.name + SURVIVAL).read_bytes())["shards"]
        if kept["fingerprint"] == pairs.fingerprint:
            return [name for name in kept["of"] if isinstance(name, str)]
    return []
