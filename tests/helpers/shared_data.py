"""Third-party test data: a little in tests/data_files, more in a folder `shared` beside the checkout (never inside it),
which is absent on most machines."""

import json
from pathlib import Path

import pytest

from tests.helpers import ROOT

DATA_FILES = ROOT / "tests/data_files"
SHARED = ROOT.parent / "shared"


def shared_path(name: str) -> Path:
    """The path of `name` in the shared folder; skips the calling test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no shared/{name} beside the checkout")
    return path


def write_real_pairs(target: Path) -> Path:
    """Write the real pairs as the JSONL that `make_shards --format jsonl` reads; images stay where they are."""
    folder = shared_path("real_pairs")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    rows = []
    for entry in manifest["pairs"]:
        row = {
            "schema": 1,
            "id": "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in entry["id"]),
            "category": entry["level1"].lower(),
            "edit_type": entry["edit_type"],
            "instruction": entry["instruction"],
            "provenance": {name: entry[name] for name in ("licence", "source_repo", "commit")},
            "source": str(folder / entry["src"]["file"]),
            "target": str(folder / entry["tgt"]["file"]),
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    target.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return target
