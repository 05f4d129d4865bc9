"""An image-editing endpoint (the OpenAI images form): a picture and an instruction in, a picture out."""

import base64
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from .chat import Picture
from .endpoint import Endpoint
from .pace import backoff
from .wire import one_line, read_retry_after

_ENDINGS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}


@dataclass(frozen=True)
class Edit:
    """What to do to a picture. id: unique within one call of `edit_pictures`, and the name of the file it makes."""

    id: str
    source: bytes
    instruction: str


@dataclass(frozen=True)
class Edited:
    id: str
    path: Path | None  # the picture, None when there is none
    reason: str = ""  # why there is none


def edit_pictures(
    endpoint: Endpoint, edits: Iterable[Edit], folder: Path, *, size: str = "",
    progress: Callable[..., Iterable] = lambda items, *_: items, total: int | None = None,
) -> Iterator[Edited]:  # fmt: skip
    """Execute each edit once, in order of completion. The picture is in `folder` before its `Edited` is yielded; what
    is there from an earlier run (of the same source and instruction) is not asked for again.

    Raises ValueError for a missing key at once; a fault of one edit is its `reason`."""
    secret = endpoint.secret()
    folder.mkdir(parents=True, exist_ok=True)
    return iter(progress(_edited(endpoint, secret, edits, folder, size), total, endpoint.model))


def _edited(endpoint: Endpoint, secret, edits: Iterable[Edit], folder: Path, size: str) -> Iterator[Edited]:
    waiting = iter(edits)
    running: set = set()
    with ThreadPoolExecutor(max_workers=endpoint.max_concurrency) as pool:
        try:
            while True:
                while len(running) < endpoint.max_concurrency and (edit := next(waiting, None)) is not None:
                    running.add(pool.submit(_one, endpoint, secret, edit, folder, size))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            for future in running:
                future.cancel()


def _one(endpoint: Endpoint, secret, edit: Edit, folder: Path, size: str) -> Edited:
    mark = folder / f"{edit.id}.json"
    asked = {"model": endpoint.model, "size": size, "source": Picture(edit.source).sha256}
    asked |= {"instruction": edit.instruction, "extra": dict(endpoint.extra)}
    if mark.is_file():
        kept = json.loads(mark.read_text(encoding="utf-8"))
        if kept["asked"] == asked and (folder / kept["file"]).is_file():
            return Edited(edit.id, folder / kept["file"])
    body, kind = _form(endpoint, edit, size)
    reason = ""
    for attempt in range(1, endpoint.max_attempts + 1):
        request = urllib.request.Request(
            f"{endpoint.url.rstrip('/')}/images/edits", body, {"Content-Type": kind, **secret.headers()}
        )
        try:
            with urllib.request.urlopen(request, timeout=endpoint.timeout) as response:
                data = _picture(response.read())
            name = f"{edit.id}.{_ENDINGS[Picture(data).mime]}"
            _write(folder / name, data)
            _write(mark, json.dumps({"asked": asked, "file": name}).encode())
            return Edited(edit.id, folder / name)
        except urllib.error.HTTPError as error:
            told = secret.redact(one_line(error.read(2000).decode("utf-8", "replace")))
            reason = f"HTTP {error.code}: {told}"
            if error.code < 500 and error.code not in (408, 409, 425, 429):
                return Edited(edit.id, None, reason)
            pause = backoff(attempt, read_retry_after(error.headers))
        except (OSError, HTTPException, ValueError) as error:
            reason = secret.redact(one_line(f"{type(error).__name__}: {error}"))
            pause = backoff(attempt, None)
        if attempt < endpoint.max_attempts:
            time.sleep(pause)
    return Edited(edit.id, None, f"{reason} (after {endpoint.max_attempts} attempts)")


def _picture(body: bytes) -> bytes:
    """The picture of a reply, checked to be one. Raises ValueError."""
    try:
        data = base64.b64decode(json.loads(body)["data"][0]["b64_json"], validate=True)
    except (ValueError, KeyError, IndexError, TypeError):
        raise ValueError("the reply holds no data[0].b64_json") from None
    _ = Picture(data).mime
    return data


def _form(endpoint: Endpoint, edit: Edit, size: str) -> tuple[bytes, str]:
    """The multipart form -> its bytes and content type."""
    boundary = uuid.uuid4().hex
    mime = Picture(edit.source).mime
    fields = {"model": endpoint.model, "prompt": edit.instruction, "n": "1", "response_format": "b64_json"}
    fields |= {"size": size} if size else {}
    for name, value in endpoint.extra.items():
        fields[name] = value
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
        if value is not None
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="source.{_ENDINGS[mime]}"\r\n'
        f"Content-Type: {mime}\r\n\r\n".encode()
        + edit.source
        + b"\r\n"
    )
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    os.replace(temporary, path)
