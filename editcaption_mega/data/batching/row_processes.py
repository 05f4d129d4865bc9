"""Packed sequences read by processes of their own.

Where a GPU computes, the thread that launches its kernels must not wait for the interpreter while others tokenize and
collate. A batch comes back in memory that both processes see, so its pictures are not copied on the way.
"""

import io
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, Protocol

import torch
from torch import Tensor

from editcaption_mega import signals
from editcaption_mega.process_pool import portable

from .batch import PackedBatch

_ALIGNMENT = 64  # bytes, of each tensor in the shared memory
_LAST_SECONDS = 5.0  # that a process may take to end behind its socket
_MEND = (
    "The system does that to processes when memory is short (-9): lower data.workers or data.prefetch_steps, or set "
    "data.worker_processes=false"
)


class Reader(Protocol):
    """What can be pickled and reads packed sequences, such as `loader.SequenceReader`."""

    def read(self, samples: Sequence[int], length: int) -> PackedBatch: ...


class RowProcesses:
    """`count` processes that read packed sequences as `reader` does. Safe in threads, as many of which read at once."""

    def __init__(self, reader: Reader, count: int):
        if not hasattr(os, "memfd_create"):
            raise ValueError("data.worker_processes=true needs Linux: set it to false, and workers are threads")
        spec = pickle.dumps(reader)
        self._processes = [_RowProcess(spec) for _ in range(count)]
        self._idle: SimpleQueue[_RowProcess] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def read(self, samples: Sequence[int], length: int) -> PackedBatch:
        """As the reader's. A process that ended is replaced, and its row read again: a row is a pure function.

        Raises ChildProcessError where two processes in a row ended with this one, and OSError where none can be
        started."""
        process = self._idle.get()
        try:
            try:
                return process.read(samples, length)
            except ChildProcessError as error:
                print(f"{error}; a new one reads its row of {len(samples)} samples again", flush=True)
            process.start_again()
            try:
                return process.read(samples, length)
            except ChildProcessError as error:
                raise ChildProcessError(f"{error}, and so did the one before, with the same row. {_MEND}") from None
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes; a row that one is reading is lost."""
        for process in self._processes:
            process.close()


class _RowProcess:
    """The rank's side of one process."""

    def __init__(self, spec: bytes):
        self._spec = spec
        self._start()

    def start_again(self) -> None:
        """In place of the process that ended."""
        self.close()
        self._start()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            # It ends with its rank from its first moment: its imports take seconds.
            own = theirs.fileno()
            start = (
                f"import sys; sys.path[:] = {sys.path!r}; from editcaption_mega import signals; "
                f"signals.end_with_connection({own}); from {__name__} import serve; serve({own})"
            )
            self._process = subprocess.Popen(
                [sys.executable, "-c", start],
                pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self._socket, self._connection = ours, Connection(os.dup(ours.fileno()))
        self._is_new = True

    def read(self, samples: Sequence[int], length: int) -> PackedBatch:
        """Raises ChildProcessError where the process is gone, wherever in its answer it went: the socket is of the two
        alone, so its end is seen at once."""
        try:
            if self._is_new:
                self._connection.send_bytes(self._spec)
            self._connection.send((list(samples), length))
            reply = self._connection.recv()
            self._is_new = False
            descriptors = [] if isinstance(reply, Exception) else socket.recv_fds(self._socket, 1, 1)[1]
            if not descriptors and not isinstance(reply, Exception):
                raise EOFError
        except (EOFError, OSError):
            raise ChildProcessError(f"a process that reads rows ended with code {self._code()}") from None
        if isinstance(reply, Exception):
            raise reply
        structure, places = reply
        return _from_shared(structure, places, descriptors[0])

    def _code(self) -> int:
        """Its exit code; one that lives on without its socket is of no use."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(_LAST_SECONDS)
        self._process.kill()
        return self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._connection.close()
        self._socket.close()


def serve(descriptor: int) -> None:
    """What the process does: rows for whoever has the other end of this socket, until that is closed.

    Signals that ask a job to stop are the rank's to answer, and rows are needed until it has done so."""
    for number in signals.STOPPING:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    own, connection = socket.socket(fileno=descriptor), Connection(os.dup(descriptor))
    try:
        reader = _Reading(connection.recv_bytes())
        while True:
            samples, length = connection.recv()
            try:
                structure, places, shared = _to_shared(reader.read(samples, length))
            except Exception as error:
                connection.send(portable(error))
                continue
            connection.send((structure, places))
            socket.send_fds(own, [b" "], [shared])
            os.close(shared)
    except (EOFError, OSError):  # the rank has ended, or wants no more
        return


class _Reading:
    """The reader in its process, made when it is first asked: what it cannot be made of is an answer, too."""

    def __init__(self, spec: bytes):
        self._spec = spec
        self._reader: Reader | None = None

    def read(self, samples: Sequence[int], length: int) -> PackedBatch:
        if self._reader is None:
            self._reader = pickle.loads(self._spec)
            self._spec = b""
        assert self._reader is not None
        return self._reader.read(samples, length)


class _Pickler(pickle.Pickler):
    """Leaves the values of tensors out, as buffers."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.from_numpy, (value.contiguous().numpy(),)
        return NotImplemented


def _to_shared(batch: PackedBatch) -> tuple[bytes, list[tuple[int, int]], int]:
    """-> the batch without its values, where each tensor's are (offset, bytes), and the memory that holds them: a file
    of no folder, which is gone with its last user, however that ends."""
    buffers: list[pickle.PickleBuffer] = []
    structure = io.BytesIO()
    _Pickler(structure, protocol=5, buffer_callback=buffers.append).dump(batch)
    shared, end, places = os.memfd_create("row"), 0, []
    for buffer in buffers:
        values = buffer.raw()
        if values.nbytes:
            os.pwrite(shared, values, end)
        places.append((end, values.nbytes))
        end += -(-values.nbytes // _ALIGNMENT) * _ALIGNMENT
    os.ftruncate(shared, max(end, 1))
    return structure.getvalue(), places, shared


def _from_shared(structure: bytes, places: list[tuple[int, int]], shared: int) -> PackedBatch:
    """The batch, whose tensors lie in the shared memory."""
    memory = memoryview(mmap.mmap(shared, 0))
    os.close(shared)
    batch: PackedBatch = pickle.loads(structure, buffers=[memory[at : at + size] for at, size in places])
    return batch
