"""`tensors.json`: what a store consists of, and by which checksums each of its bytes can be checked.

The file begins with the sha256 of the rest of itself, so a flipped bit in it is noticed like one in a weight:

    {"sha256": "..", "format": 2, "metadata": {..}, "files": {NAME: {"bytes", "sha256"}}, "tensors": {KEY: {..}}}

Format 1 had neither: files with their sizes only. It is still read.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypedDict

from pydantic import BaseModel, ConfigDict, Field, ValidationError, with_config

from editcaption_mega.files import parse_json
from editcaption_mega.words import one_line

from .rules import Box, Shape
from .tensor_file import DTYPES, sha256_of

MANIFEST = "tensors.json"
FORMAT, WITHOUT_CHECKSUMS = 2, 1
MEND = "copy the checkpoint again from where it came, or use another one"

_OWN_DIGEST = re.compile(rb'\{"sha256": "([0-9a-f]{64})", ')
_STRICT = ConfigDict(strict=True, extra="forbid")
_DTYPE_NAMES = "|".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)


class DamagedCheckpointError(ValueError):
    """A checkpoint that is not what was written: cut, changed, or never whole."""


class StoredFile(BaseModel):
    model_config = _STRICT
    bytes: int = Field(ge=0)
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")  # None in format 1


class StoredBox(BaseModel):
    """A region of a tensor, and where it is: tensor `inside` of safetensors file `file`."""

    model_config = _STRICT
    start: list[int]
    length: list[int]
    inside: str
    file: str

    @property
    def box(self) -> Box:
        return Box(tuple(self.start), tuple(self.length))


class StoredTensor(BaseModel):
    model_config = _STRICT
    shape: list[int]
    dtype: str = Field(pattern=f"^({_DTYPE_NAMES})$")
    boxes: list[StoredBox]


@with_config(ConfigDict(strict=True, extra="allow"))
class Metadata(TypedDict, total=False):
    """What the writer of a store adds to it."""

    experts_in_out: bool  # how the Hugging Face folder of the beginning stored its experts
    layout: list[int]  # of the ranks whose random states are in the store
    takers: list[int]  # ranks that wrote a part for others, which read it in their files
    fingerprint: str  # of the data


class Manifest(BaseModel):
    model_config = _STRICT
    format: int
    metadata: Metadata
    files: dict[str, StoredFile]  # by path in the folder, all but the manifest
    tensors: dict[str, StoredTensor]

    @property
    def has_checksums(self) -> bool:
        return self.format != WITHOUT_CHECKSUMS

    def to_bytes(self) -> bytes:
        """The file's content, with its own digest in front."""
        rest = json.dumps(self.model_dump())[1:].encode()
        return b'{"sha256": "%b", %b' % (hashlib.sha256(rest).hexdigest().encode(), rest)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a store. Raises ValueError for a folder that is none, DamagedCheckpointError for one that is not
    what was written: other bytes, other types, files outside the folder, or boxes that are not exactly the tensor."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{folder} is not a complete checkpoint: it has no {MANIFEST}")
    content = path.read_bytes()
    begins = _OWN_DIGEST.match(content)
    if begins and hashlib.sha256(content[begins.end() :]).hexdigest().encode() != begins[1]:
        raise DamagedCheckpointError(f"{path} is damaged: its bytes are not those that were written; {MEND}")
    try:
        values = parse_json(content)
        if not isinstance(values, dict):
            raise ValueError(f"expected a JSON object, found {type(values).__name__}")
    except ValueError as error:
        raise DamagedCheckpointError(f"{path} is damaged: {error}; {MEND}") from None
    number = values.get("format")
    if begins:
        del values["sha256"]
        if number != FORMAT:
            raise ValueError(f"{path} has format {number!r:.80}, this version reads {WITHOUT_CHECKSUMS} and {FORMAT}")
    elif number == WITHOUT_CHECKSUMS and isinstance(values.get("files"), dict):
        values["files"] = {name: {"bytes": size} for name, size in values["files"].items()}
    else:
        raise DamagedCheckpointError(
            f"{path} is damaged: it should begin with its own checksum, or have format {WITHOUT_CHECKSUMS}, and has "
            f"format {number!r:.80}; {MEND}"
        )
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        raise DamagedCheckpointError(f"{path} is damaged: {first_problem(error)}; {MEND}") from None
    problem = next(_problems(manifest), None)
    if problem:
        raise DamagedCheckpointError(f"{path} is damaged: {one_line(problem)}; {MEND}")
    return manifest


def _problems(manifest: Manifest) -> Iterator[str]:
    """What is wrong with a manifest whose types are right."""
    for name, file in manifest.files.items():
        if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            yield f"file {name!r} is not inside the folder"
        if manifest.has_checksums and file.sha256 is None:
            yield f"file {name!r} has no checksum"
    places: set[tuple[str, str]] = set()
    for key, tensor in manifest.tensors.items():
        for stored in tensor.boxes:
            if stored.file not in manifest.files:
                yield f"tensor {key!r} is in {stored.file!r}, which is not among its files"
            if (stored.file, stored.inside) in places:
                yield f"{stored.inside!r} of {stored.file} is used twice"
            places.add((stored.file, stored.inside))
        problem = _cover_problem(tuple(tensor.shape), tensor.boxes)
        if problem:
            yield f"tensor {key!r} of shape {tensor.shape}: {problem}"


def _cover_problem(shape: Shape, stored: list[StoredBox]) -> str | None:
    """Why the boxes are not a partition of the whole tensor, or None."""
    if any(length < 0 for length in shape):
        return "a length is negative"
    for part in stored:
        if not len(part.start) == len(part.length) == len(shape):
            return f"the box at {part.start} of lengths {part.length} has another number of axes"
        inside = zip(part.start, part.length, shape, strict=True)
        if any(start < 0 or length < 0 or start + length > whole for start, length, whole in inside):
            return f"the box at {part.start} of lengths {part.length} lies outside"
    boxes = [part.box for part in stored]
    covered, size = sum(box.size for box in boxes), Box.whole(shape).size
    if covered != size:
        return f"its boxes hold {covered} of {size} values"
    pair = _overlap(boxes, len(shape))
    return f"the boxes at {list(pair[0].start)} and {list(pair[1].start)} overlap" if pair else None


def _overlap(boxes: list[Box], axes: int) -> tuple[Box, Box] | None:
    """Two boxes with a common value, or None. A sweep along the axis that tells most boxes apart."""
    if len(boxes) < 2:
        return None
    axis = max(range(axes), key=lambda axis: len({box.start[axis] for box in boxes}))
    reaching: list[tuple[int, Box]] = []  # boxes that end behind the sweep, with that end
    for box in sorted((box for box in boxes if box.size), key=lambda box: box.start[axis]):
        start = box.start[axis]
        reaching = [(end, other) for end, other in reaching if end > start]
        for _, other in reaching:
            if other.intersect(box) is not None:
                return other, box
        reaching.append((start + box.shape[axis], box))
    return None


def file_problem(folder: Path, name: str, entry: StoredFile) -> str | None:
    """Why the file is not the one that was written, as a sentence that names it; None for a sound one."""
    path = folder / name
    try:
        if not path.is_file():
            return f"{path} is missing"
        size = path.stat().st_size
        if size != entry.bytes:
            return f"{path} is damaged: it has {size} bytes, {entry.bytes} were written"
        digest = sha256_of(path)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    if entry.sha256 is not None and digest != entry.sha256:
        return f"{path} is damaged: its sha256 is {digest[:12]}.., that of what was written {entry.sha256[:12]}.."
    return None


def first_problem(error: ValidationError) -> str:
    """The first field that is not as its type says."""
    first: Any = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{field} is missing"
    return f"{field} is {repr(first['input'])[:60]} ({first['msg'].lower()})"
