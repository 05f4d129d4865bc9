"""Rows that go to the ranks of their experts and come back in pieces, beside what the experts make of other pieces.

A piece is of some of each rank's experts, so no product gets smaller by it but in the number of experts: while the
first experts compute, the rows of the next ones travel, and the results of the ones before go home. The graph is such
that the backward pass does the same the other way round: autograd runs what was made last first, so all gradients set
out (`_Home`), and each piece waits for its own alone.

    rows -> _Out -> _Arrived (piece 0) -> experts -> _Return (piece 0) -> _Home -> rows
                 -> _Arrived (piece 1) -> experts -> _Return (piece 1) ->

A node that begins an all-to-all hands on a tensor that is still being filled, and the next node waits for it. Gradients
that would be needed before they are there are kept aside, and what autograd passes on in their place has their shape.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

Flight = list[tuple[Tensor, Tensor, Any]]  # tensors that are being filled, from which, and what to wait for


class Exchange:
    """One trip of the rows of a layer. sent, received: rows to and from each rank of the group, of each piece."""

    def __init__(self, group: ProcessGroup, sent: Sequence[list[int]], received: Sequence[list[int]]):
        self.group, self.sent, self.received = group, sent, received
        ends = list(accumulate(map(sum, sent)))
        self.places = [slice(end - sum(rows), end) for end, rows in zip(ends, sent, strict=True)]
        self.total = ends[-1]
        self.out: list[Flight] = []
        self.back: dict[int, Flight] = {}
        self.whole: list[Tensor] = []  # rows of all pieces that come back here

    def send(self, rows: Tensor, probs: Tensor) -> list[tuple[Tensor, Tensor]]:
        """rows [R, h] and probabilities [R, 1] of all pieces, one piece after another, by rank -> those that come here,
        of each piece; `arrived` before they are read."""
        tensors = _Out.apply(self, rows, probs)
        return list(zip(tensors[: len(self.sent)], tensors[len(self.sent) :], strict=True))

    def arrived(self, piece: int, rows: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """The same, whole."""
        whole: tuple[Tensor, Tensor] = _Arrived.apply(self, piece, rows, probs)
        return whole

    def give_back(self, piece: int, rows: Tensor) -> Tensor:
        """What the experts made of the rows of a piece sets out to where they came from; for `home`."""
        coming: Tensor = _Return.apply(self, piece, rows)
        return coming

    def home(self, pieces: Sequence[Tensor]) -> Tensor:
        """The results of all pieces [R, h], in the order of what was sent."""
        whole: Tensor = _Home.apply(self, *pieces)
        return whole

    def _go(self, piece: int, tensors: Sequence[Tensor], into: Sequence[Tensor] | None = None) -> Flight:
        """Begin to send a piece to its experts, or with `into` back from them to there."""
        splits = (self.received[piece], self.sent[piece])
        into_splits, from_splits = splits if into is None else splits[::-1]
        if into is None:
            into = [tensor.new_empty(sum(into_splits), *tensor.shape[1:]) for tensor in tensors]
        return [
            (
                there,
                here,
                dist.all_to_all_single(there, here, into_splits, from_splits, group=self.group, async_op=True),
            )
            for here, there in zip(tensors, into, strict=True)
        ]

    def _parts(self, like: Sequence[Tensor], piece: int) -> list[Tensor]:
        """Where a piece of tensors like these lands at home."""
        if not self.whole:
            self.whole = [tensor.new_empty(self.total, *tensor.shape[1:]) for tensor in like]
        return [tensor[self.places[piece]] for tensor in self.whole]

    def _landed(self) -> list[Tensor]:
        whole, self.whole = self.whole, []
        return whole


def _wait(flight: Flight) -> list[Tensor]:
    tensors = []
    for tensor, _, work in flight:
        work.wait()
        tensors.append(tensor)
    return tensors


class _Out(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exchange: Exchange, rows: Tensor, probs: Tensor) -> tuple[Tensor, ...]:
        ctx.exchange = exchange
        exchange.out = [exchange._go(piece, (rows[place], probs[place])) for piece, place in enumerate(exchange.places)]
        return (*(flight[0][0] for flight in exchange.out), *(flight[1][0] for flight in exchange.out))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        for flight in ctx.exchange.back.values():
            _wait(flight)
        ctx.exchange.back.clear()
        by_rows, by_probs = ctx.exchange._landed()
        return None, by_rows, by_probs


class _Arrived(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exchange: Exchange, piece: int, rows: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        ctx.exchange, ctx.piece = exchange, piece
        _wait(exchange.out[piece])
        exchange.out[piece] = []
        return rows.view_as(rows), probs.view_as(probs)

    @staticmethod
    def backward(ctx: Any, by_rows: Tensor, by_probs: Tensor) -> tuple[Tensor | None, ...]:
        exchange, grads = ctx.exchange, (by_rows.contiguous(), by_probs.contiguous())
        exchange.back[ctx.piece] = exchange._go(ctx.piece, grads, exchange._parts(grads, ctx.piece))
        return None, None, *grads


class _Return(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exchange: Exchange, piece: int, rows: Tensor) -> Tensor:
        ctx.exchange, ctx.piece = exchange, piece
        rows = rows.contiguous()
        parts = exchange._parts((rows,), piece)
        exchange.back[piece] = exchange._go(piece, (rows,), parts)
        return parts[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (by_rows,) = _wait(ctx.exchange.out[ctx.piece])
        ctx.exchange.out[ctx.piece] = []
        return None, None, by_rows


class _Home(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, exchange: Exchange, *pieces: Tensor) -> Tensor:
        ctx.exchange = exchange
        for flight in exchange.back.values():
            _wait(flight)
        exchange.back.clear()
        (whole,) = exchange._landed()
        return whole

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        exchange, grad = ctx.exchange, grad.contiguous()
        parts = [grad[place] for place in exchange.places]
        for piece in reversed(range(len(parts))):  # as they will be waited for
            exchange.out[piece] = exchange._go(piece, parts[piece : piece + 1])
        return None, *parts
