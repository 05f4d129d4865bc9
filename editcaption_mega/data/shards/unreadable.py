"""Samples of which a picture or the record is no longer what was written: bytes that are there and cannot be used.

Storage that does not answer is something else: no sample is bad because a disk or a server is gone, so that raises."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from editcaption_mega.data.images.decode import ImageError
from editcaption_mega.records import RecordError

from .layout import ShardError, UnreachableError

UNREADABLE = "unreadable"  # in a line of log-probs of a sample that has none: why


class SamplePlace(NamedTuple):
    """Where a sample stands: its id, and the path of its tar."""

    id: str
    shard: str


class BadSample(NamedTuple):
    """number: in the data. reason: one sentence."""

    number: int
    id: str
    shard: str
    reason: str

    def to_json(self) -> dict[str, str]:
        return {"id": self.id, "shard": self.shard, "reason": self.reason}


class UnreadableError(ValueError):
    """What is stored of sample `number` cannot be used."""

    def __init__(self, number: int, reason: str):
        super().__init__(number, reason)
        self.number, self.reason = number, reason


def is_bad_data(error: Exception) -> bool:
    """Whether the error says that bytes were read and are not what they should be."""
    if isinstance(error, UnreachableError) or isinstance(error.__cause__, MemoryError):
        return False
    return isinstance(error, ShardError | RecordError | ImageError)


def read_twice[Value](number: int, read: Callable[[], Value]) -> Value:
    """What `read` returns at its first or second try, since a disk may err once. Raises UnreadableError for bad data
    and what else `read` raises."""
    try:
        return read()
    except Exception as error:
        if not is_bad_data(error):
            raise
    try:
        return read()
    except Exception as error:
        if not is_bad_data(error):
            raise
        raise UnreadableError(number, str(error)) from error


def named(reasons: Mapping[int, str], place: Callable[[int], SamplePlace]) -> tuple[BadSample, ...]:
    """The samples of these reasons, by number."""
    return tuple(BadSample(number, *place(number), reasons[number]) for number in sorted(reasons))
