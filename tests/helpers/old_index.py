"""Folders of shards as earlier versions wrote them: every sample in index.json (schema 1)."""

import json

from editcaption_mega.data.shards.index import COLUMNS_GLOB, load_index
from editcaption_mega.data.shards.index_json import fields
from editcaption_mega.data.shards.layout import MEMBERS


def write_old_index(folder):
    """Put one in the place of the folder's index."""
    index = load_index(folder)
    samples = [
        {"id": sample.id, "shard": sample.shard} | {part: fields(getattr(sample, part)) for part in MEMBERS}
        for sample in index.samples
    ]
    content = {"schema": 1, "fingerprint": index.fingerprint, "shards": list(map(fields, index.shards))}
    (folder / "index.json").write_text(json.dumps(content | {"samples": samples}))
    for path in folder.glob(COLUMNS_GLOB):
        path.unlink()
    return folder
