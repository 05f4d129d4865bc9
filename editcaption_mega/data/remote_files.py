"""Files at an address (http, s3, hf, whatever fsspec reads), fetched whole: again where a network fails, cuts off,
falls silent or sends something else."""

import random
import time
from collections.abc import Callable
from pathlib import Path

from editcaption_mega.words import one_line, without_credentials

ATTEMPTS = 12  # of each file, with longer and longer pauses between: two minutes in all
_LONGEST_PAUSE = 20.0  # seconds
_CHUNK = 1 << 20
_SILENCE = 60.0  # seconds without a byte, after which an http server is asked again


class FetchError(OSError):
    """A file could not be fetched: the work failed, and can go on later."""


class NoFileError(FetchError):
    """There is no such file, or it is not for us."""


def fetch[Value](address: str, partial: Path, use: Callable[[Path], Value]) -> Value:
    """What `use` makes of the file, which is there as `partial` meanwhile; fetched again where it raises OSError or
    ValueError. Raises FetchError, whose words show no password."""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(min(_LONGEST_PAUSE, 0.1 * 2**attempt) * random.uniform(0.5, 1))
        try:
            _copy(address, partial)
            return use(partial)
        except Exception as error:  # each kind of address has its own
            last = _root(error)
            if attempt >= 2 and _is_final(last):  # a server may say so for a moment
                break
        finally:
            partial.unlink(missing_ok=True)
    missing = isinstance(last, FileNotFoundError) or getattr(last, "status", 0) in (404, 410)
    reason = "no such file" if missing else f"{type(last).__name__}: {last}"
    words = f"could not be fetched ({without_credentials(one_line(reason))[:300]}), tried {attempt + 1} times"
    raise (NoFileError if _is_final(last) else FetchError)(f"{without_credentials(address)} {words}")


def check_kind(address: str) -> None:
    """Raises ValueError for an address of a kind that cannot be read here."""
    import fsspec

    try:
        fsspec.get_filesystem_class(address.partition("://")[0])
    except (ValueError, ImportError) as error:
        raise ValueError(
            f"{without_credentials(address)}: {one_line(str(error))}: expected an address such as https://.., s3://.. "
            "(pip install s3fs) or hf://datasets/.."
        ) from None


def _root(error: BaseException) -> BaseException:
    """What an error came from: fsspec says that there is no file, too, where nobody answers."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _is_final(error: BaseException) -> bool:
    """No such file, or not for us."""
    return isinstance(error, FileNotFoundError | PermissionError) or getattr(error, "status", 0) in (401, 403, 404, 410)


def _copy(address: str, path: Path) -> None:
    import fsspec  # half a second, which files of this machine need not wait for

    options = {}
    if address.startswith("http"):
        import aiohttp

        silence = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE, sock_read=_SILENCE)
        options = {"client_kwargs": {"timeout": silence}, "block_size": 0, "skip_instance_cache": True}
    with fsspec.open(address, "rb", **options) as source, open(path, "wb") as target:
        while chunk := source.read(_CHUNK):
            target.write(chunk)
        expected = getattr(source, "size", None)  # of an http answer aiohttp has seen to it
        if isinstance(expected, int) and target.tell() != expected:
            raise OSError(f"{target.tell()} of {expected} bytes came")
