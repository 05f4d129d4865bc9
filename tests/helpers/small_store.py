"""A store of a few kilobytes with everything that a checkpoint has, for tests that damage it."""

import json
from pathlib import Path

import torch

from editcaption_mega.conversion import Box, StoreWriter

WHOLE = torch.arange(60.0).view(6, 10)


def write(folder: Path, step: int = 3, **metadata) -> Path:
    """Two axes of boxes over several files, moments, random state, state.json and hf/."""
    (folder / "hf").mkdir(parents=True)
    (folder / "hf/config.json").write_text('{"model_type": "qwen3_vl"}\n')
    (folder / "hf/chat_template.jinja").write_text("{{ messages }}\n")
    state = {"step": step, "updates": step, "samples": 8 * step, "objective": "sft", "seed": 1234}
    (folder / "state.json").write_text(json.dumps(state) + "\n")
    writer = StoreWriter(folder, metadata={"experts_in_out": False, **metadata}, max_file_bytes=200)
    for name in ("weights", "exp_avg", "exp_avg_sq"):
        for row in (0, 2, 4):
            for column in (0, 5):
                box = Box((row, column), (2, 5))
                writer.add(f"{name}/x", (6, 10), box, WHOLE[box.within(Box.whole((6, 10)))])
    writer.add("weights/half", (3,), Box.whole((3,)), torch.ones(3, dtype=torch.bfloat16))
    writer.add("random/torch/0", (16,), Box.whole((16,)), torch.arange(16, dtype=torch.uint8))
    writer.finish()
    return folder


def rewrite(folder: Path, change) -> None:
    """Give the manifest another content, with a checksum that fits it."""
    path = folder / "tensors.json"
    values = json.loads(path.read_bytes())
    del values["sha256"]
    values = change(values) or values
    path.write_bytes(with_own_digest(values))


def with_own_digest(values: dict) -> bytes:
    from hashlib import sha256

    rest = json.dumps(values)[1:].encode()
    return b'{"sha256": "' + sha256(rest).hexdigest().encode() + b'", ' + rest


def without_checksums(folder: Path) -> None:
    """Make it a store of format 1."""
    path = folder / "tensors.json"
    values = json.loads(path.read_bytes())
    del values["sha256"]
    sizes = {name: file["bytes"] for name, file in values["files"].items() if name.endswith(".safetensors")}
    path.write_text(json.dumps({**values, "format": 1, "files": sizes}))


def flip(path: Path, position: int) -> None:
    """Flip one bit (counted over the file) and leave everything else."""
    content = bytearray(path.read_bytes())
    content[position // 8 % len(content)] ^= 1 << position % 8
    path.write_bytes(content)
