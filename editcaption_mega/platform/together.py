"""What ranks tell each other about one piece of work: its results, and one error that all of them raise alike.

A rank that raises alone leaves the others waiting in their next collective, where they end with the backend's words
instead of the reason. So work that may fail on some ranks only runs inside `together`, or in `from_rank_zero`.
"""

import copy
import pickle
import socket
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from .machine import is_dry
from .process import device, is_rank_zero, rank, world_size

# What an error becomes whose own class cannot travel: the kinds that `cli` shows as one sentence, else our defect.
_KINDS = (ValueError, OSError, FloatingPointError)
_FAILED = 2.0  # what a rank says that has an error; 1: a note, 0: neither


Group = dist.ProcessGroup | None  # of all ranks; None: the one that `initialize` made


def gather[Item](item: Item, group: Group = None) -> list[Item]:
    """The item of every rank, in their order, on every rank. Collective; without process groups just [item].

    A dry process is alone, and takes the others to say what it says. group: `host_group()` in a thread of its own."""
    if is_dry():
        return [item] * world_size()
    if not dist.is_initialized() or world_size() == 1:
        return [item]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, item, group=group)
    return parts


def gather_on_rank_zero[Item](item: Item, group: Group = None) -> list[Item]:
    """As `gather`, on rank 0; the others get [] and need no memory for it."""
    if is_dry() or not dist.is_initialized() or world_size() == 1:
        return gather(item)
    parts: list[Any] | None = [None] * world_size() if is_rank_zero() else None
    dist.gather_object(item, parts, dst=0, group=group)
    return parts or []


def share[Item](items: Sequence[Item]) -> Sequence[Item]:
    """This rank's part of work that the ranks divide; all of it without process groups."""
    return items[rank() :: world_size()] if dist.is_initialized() else items


def gather_shares(part: np.ndarray) -> np.ndarray:
    """What the ranks made of their `share`s [n, ..], in the order of the whole [N, ..], on every rank. Collective."""
    parts = gather(part)
    whole = np.empty((sum(map(len, parts)), *part.shape[1:]), part.dtype)
    for first, of_rank in enumerate(parts):
        whole[first :: len(parts)] = of_rank
    return whole


def raise_together(error: Exception | None, group: Group = None, *, note: bool = False) -> bool:
    """Each rank gives its error or None; when there is any, every rank raises that of the lowest such rank. Collective.

    note: whether this rank has something to tell the others -> whether any rank has. The class and the sentence of the
    error are the same everywhere. The sentence names the rank unless all ranks say the same. What this rank had itself
    is the cause, so that `--debug` shows its traceback."""
    if is_dry() or not dist.is_initialized() or world_size() == 1:
        if error is not None:
            raise error
        return note
    # One number as a rule; the errors themselves only where there is one.
    failed = torch.tensor([_FAILED if error is not None else float(note)])
    if group is None:  # a group of its own is one of the hosts
        failed = failed.to(device(), non_blocking=True)
    dist.all_reduce(failed, op=dist.ReduceOp.MAX, group=group)
    if (most := failed.item()) < _FAILED:
        return bool(most)
    errors = gather(None if error is None else (_portable(error), socket.gethostname()), group)
    raised = [(i, *other) for i, other in enumerate(errors) if other is not None]
    first, chosen, host = raised[0]
    if any(other is None or _text(other[0]) != _text(chosen) for other in errors):
        _name(chosen, f"rank {first} on {host}")
    raise chosen from error


@contextmanager
def together(group: Group = None) -> Iterator[None]:
    """Work of each rank, without collectives inside, whose error on any rank is raised on every rank. Collective.

    Raises as `raise_together`. What is no Exception (a signal's KeyboardInterrupt) ends this rank at once."""
    error: Exception | None = None
    try:
        yield
    except Exception as caught:
        error = caught
    raise_together(error, group)


def each_together[Item](
    items: Iterable[Item],
    differs: Callable[[Item], bool] = lambda _: False,
    settle: Callable[[Item], None] = lambda _: None,
) -> Generator[Item, None, None]:
    """The items, of which every rank has as many; where one rank cannot make its next one, every rank raises.

    differs: whether this rank has something to tell the others of an item; where any has, all call `settle`, which is
    collective, with theirs before they go on. Collective, once for each item and once at the end. Raises as
    `raise_together`, and what `settle` raises."""
    source = iter(items)
    end: Any = object()
    try:
        while True:
            item, error, note = end, None, False
            try:
                item = next(source, end)
                note = item is not end and differs(item)
            except Exception as caught:
                error = caught
            if raise_together(error, note=note):
                settle(item)
            if item is end:
                return
            yield item
    finally:
        if isinstance(source, Generator):
            source.close()


def from_rank_zero[Value](function: Callable[[], Value]) -> Value:
    """What `function` returns on rank 0, on every rank; its error is raised on all, in one class. Collective."""
    outcome: list[Any] = [None, None]  # the value, the error
    if is_rank_zero() or is_dry():
        try:
            outcome = [function(), None]
        except Exception as caught:
            if not dist.is_initialized():
                raise
            outcome = [None, _portable(caught)]
    if dist.is_initialized() and not is_dry():
        dist.broadcast_object_list(outcome, src=0)
    value: Value = outcome[0]
    if outcome[1] is not None:
        raise outcome[1]
    return value


def _portable(error: Exception) -> Exception:
    """The error itself where the object collectives can carry it, else one of a built-in kind with its words."""
    try:
        pickle.dumps(error)  # as the collectives send it
        twin = copy.copy(error)  # as they make it again, from its class and arguments
        if type(twin) is type(error) and _text(twin) == _text(error):
            return error
    except Exception:  # whatever a class's own pickling raises: then it cannot travel
        pass
    kind = next((kind for kind in _KINDS if isinstance(error, kind)), RuntimeError)
    plain = kind(str(error) if kind is not RuntimeError else f"{type(error).__name__}: {error}")
    if hasattr(error, "exit_code"):
        vars(plain)["exit_code"] = error.exit_code
    return plain


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _name(error: Exception, where: str) -> None:
    """Add the rank to the error's words; an OSError keeps its number and its file."""
    if isinstance(error, OSError) and error.strerror:
        error.strerror = f"{error.strerror} ({where})"
    elif error.args:
        error.args = (f"{error.args[0]} ({where})", *error.args[1:])
