"""An image-editing endpoint (the OpenAI images form): a picture and an instruction in, a picture out."""

import asyncio
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pybase64

from editcaption_mega.data.images.decode import decode_image, encode_png
from editcaption_mega.data.images.formats import extension, media_type
from editcaption_mega.files import read_json, write_atomically
from editcaption_mega.progress import Progress, no_progress

from .address import Endpoint
from .cache import ReplyCache, open_cache
from .failures import cleaned, read_object, token_count
from .messages import Picture
from .outcome import Outcome, Response
from .scheduler import RequestScheduler
from .secret import Secret
from .service import Job

MAX_PIXELS = 2048 * 2048  # of a result; a decoder may take twelve times as many bytes

_SMALLER = "have the editor make smaller ones (editor.size), or raise editor.max_pixels"
_PLAIN_LETTERS = str.maketrans("-_", "+/")


@dataclass(frozen=True)
class Edit:
    """What to do to a picture. id: unique within one call of `edit_pictures`, and the name of the file it makes."""

    id: str
    source: bytes
    instruction: str


@dataclass(frozen=True)
class Edited:
    id: str
    path: Path | None  # the picture, a PNG without transparency; None when there is none
    reason: str = ""  # why there is none


def edit_pictures(
    endpoint: Endpoint, edits: Iterable[Edit], folder: Path, *, size: str = "", max_pixels: int = MAX_PIXELS,
    cache: Path | None = None, progress: Progress = no_progress, total: int | None = None,
) -> Iterator[Edited]:  # fmt: skip
    """Execute each edit once, in order of completion. The picture is in `folder` before its `Edited` is yielded; what
    is there from an earlier run (of the same editor, source and instruction) is not asked for again. What the editor
    sends is decoded first: a damaged picture, or none, is the edit's `reason` and nothing of it is kept.

    max_pixels: of a result, at most. cache: a folder, as that of `complete`: its responses.sqlite says where the
    picture of an edit lies, so that edits that ask the same are paid once, whatever their ids and folders; its
    calls.jsonl gets a line per attempt.

    Raises ValueError for a missing key at once, and for an unusable cache; EndpointError when the endpoint as a whole
    is of no use."""
    secret = endpoint.secret()
    folder.mkdir(parents=True, exist_ok=True)

    def edited() -> Iterator[Edited]:
        with open_cache(cache) as (kept, log):
            service = _Edits(endpoint, secret, kept, folder, size, max_pixels)
            with RequestScheduler(endpoint, secret, service, log) as scheduler:
                yield from scheduler.results(_distinct(edits))

    return iter(progress(edited(), total, endpoint.model))


def _distinct(edits: Iterable[Edit]) -> Iterator[Edit]:
    """Raises ValueError for an id that was there before, or that names no file."""
    ids = set()
    for edit in edits:
        if edit.id in ids or not edit.id or Path(edit.id).name != edit.id:
            raise ValueError(f"edit {edit.id!r}: its id names the file of the picture, so it must be one of its own")
        ids.add(edit.id)
        yield edit


class _Edits:
    """Image edits, as the scheduler sees them, and what is kept of them:

    FOLDER/ID.png    the picture
    FOLDER/ID.json   what was asked, and the picture's digest

    and in the cache, by what was asked, where such a picture lies and its digest."""

    path = "/images/edits"
    max_reply_mib = 12.0

    def __init__(
        self, endpoint: Endpoint, secret: Secret, cache: ReplyCache | None, folder: Path, size: str, max_pixels: int
    ):
        self._endpoint, self._secret, self._cache, self._folder = endpoint, secret, cache, folder
        self._size, self._max_pixels = size, max_pixels
        self.look_ahead = endpoint.max_concurrency  # a picture or two for each in flight, so that few are in memory
        self._decoding = asyncio.Lock()  # one picture at a time is in memory as pixels

    def look_up(self, edits: Sequence[Edit]) -> Iterator[Job]:
        for edit in edits:
            asked = self._asked(edit)
            key = sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest() if self._cache else edit.id
            yield Job(key, edit, self._kept(edit, asked) or self._kept_for_another(edit, asked, key))

    def _asked(self, edit: Edit) -> dict[str, Any]:
        return {
            "server": self._endpoint.identity,
            "model": self._endpoint.model,
            "size": self._size,
            "source": Picture(edit.source).sha256,
            "instruction": edit.instruction,
            "extra": dict(self._endpoint.extra),
        }

    def _kept(self, edit: Edit, asked: Mapping[str, Any]) -> Edited | None:
        """The picture of an earlier run that asked the same, unless it was damaged since."""
        path = self._path(edit)
        try:
            mark = read_json(path.with_name(f"{edit.id}.json"))
            same = mark["asked"] == asked and mark["sha256"] == sha256(path.read_bytes()).hexdigest()
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return Edited(edit.id, path) if same else None

    def _kept_for_another(self, edit: Edit, asked: Mapping[str, Any], key: str) -> Edited | None:
        """The picture of another edit that asked the same, under this one's name too, unless it was damaged since."""
        row = self._cache.get([key]).get(key) if self._cache else None
        if self._cache is None or row is None:
            return None
        try:
            picture = (self._cache.path.parent / row["picture"]).read_bytes()
            same = row["sha256"] == sha256(picture).hexdigest()
        except (FileNotFoundError, KeyError, TypeError):
            return None
        return self._place(edit, asked, picture) if same else None

    def _place(self, edit: Edit, asked: Mapping[str, Any], picture: bytes) -> Edited:
        path, mark = self._path(edit), {"asked": asked, "sha256": sha256(picture).hexdigest()}
        write_atomically(path, picture)
        write_atomically(path.with_name(f"{edit.id}.json"), json.dumps(mark))
        return Edited(edit.id, path)

    def _path(self, edit: Edit) -> Path:
        return self._folder / f"{edit.id}.png"

    def fit(self, edit: Edit) -> Edit:
        media_type(edit.source)
        return edit

    def unsendable(self, edit: Edit, reason: str) -> Edited:
        return Edited(edit.id, None, reason)

    def write(self, edit: Edit) -> tuple[bytes, str]:
        return _form(self._endpoint, edit, self._size)

    async def read(self, edit: Edit, answer: Response) -> Outcome:
        async with self._decoding:
            return cleaned(await asyncio.to_thread(read_edit, answer, self._max_pixels), self._secret)

    def keep(self, done: Sequence[tuple[Job, Outcome]]) -> list[Edited]:
        results, rows = [], []
        for job, outcome in done:
            edit: Edit = job.request
            if outcome.status != "ok":
                after = f" (after {job.attempts} attempts)" if job.attempts > 1 else ""
                results.append(Edited(edit.id, None, outcome.reason + after))
                continue
            results.append(self._place(edit, self._asked(edit), outcome.picture))
            rows.append((job.key, self._row(edit, outcome)))
        if self._cache is not None and rows:
            self._cache.put(self._endpoint.model, self._endpoint.identity, rows)
        return results

    def _row(self, edit: Edit, outcome: Outcome) -> dict[str, str]:
        """Relative to the cache, since a run's folder may be moved as a whole."""
        picture = os.path.relpath(self._path(edit), self._cache.path.parent) if self._cache else ""
        return {"model": outcome.model, "picture": picture, "sha256": sha256(outcome.picture).hexdigest()}


def read_edit(answer: Response, max_pixels: int = MAX_PIXELS) -> Outcome:
    """What an answer means, with its picture decoded and encoded anew: so it is sound, opaque, and holds nothing beside
    its pixels."""
    data = read_object(answer, "data")
    answer.body.clear()  # it may be large, and what counts has been read
    if isinstance(data, Outcome):
        return data
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    outcome = Outcome(
        "failed",
        http=answer.http,
        may_pass=True,
        prompt_tokens=token_count(usage.get("input_tokens")),
        completion_tokens=token_count(usage.get("output_tokens")),
    )
    items = data["data"]
    item = items[0] if isinstance(items, list) and items and isinstance(items[0], dict) else {}
    encoded = item.get("b64_json")
    if not isinstance(encoded, str):
        outcome.reason = "the reply holds no data[0].b64_json"
        if item.get("url"):
            outcome.reason += ", but an address, which is not fetched: have the server send b64_json"
            outcome.may_pass = False
        return outcome
    try:
        picture = _decoded(encoded)
    except ValueError:
        outcome.reason = "the reply's data[0].b64_json is not base64"
        return outcome
    del data, items, item, encoded  # as large as the picture itself
    try:
        outcome.picture = encode_png(decode_image(picture, max_pixels=max_pixels, where="the editor's picture"))
    except ValueError as error:
        # Nobody can shrink what the editor is yet to send.
        outcome.reason = re.sub("shrink the image.*", _SMALLER, str(error))
        return outcome
    outcome.status, outcome.may_pass = "ok", False
    return outcome


def _decoded(encoded: str) -> bytes:
    """base64 as servers write it: in lines, with the letters of addresses, without its padding, or as a data URL.

    Raises ValueError for what is none."""
    if encoded.startswith("data:"):
        encoded = encoded.partition(",")[2]
    encoded = "".join(encoded.split()).translate(_PLAIN_LETTERS).rstrip("=")
    return pybase64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)


def _form(endpoint: Endpoint, edit: Edit, size: str) -> tuple[bytes, str]:
    """The multipart form -> its bytes and content type."""
    boundary = uuid.uuid4().hex
    fields = {"model": endpoint.model, "prompt": edit.instruction, "n": "1", "response_format": "b64_json"}
    fields |= ({"size": size} if size else {}) | dict(endpoint.extra)
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{_written(value)}\r\n'.encode()
        for name, value in fields.items()
        if value is not None
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="source.{extension(edit.source)}"\r\n'
        f"Content-Type: {media_type(edit.source)}\r\n\r\n".encode()
        + edit.source
        + b"\r\n"
    )
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
