"""What is looked at between steps: training stands still for it, and goes on as if nothing had happened."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from editcaption_mega import phases, platform

# Looks at the weights after a step, whose number it is given -> numbers for that step's object in metrics.jsonl, by
# names of their own (`held_out/loss`); None: not finite. Collective: called on every rank, with the weights whole, in
# evaluation mode and without gradients. It may draw random numbers and enter phases (`phases.SCORING`); it changes no
# weight.
Evaluation = Callable[[int], Mapping[str, float | None]]


class Evaluations:
    """Calls `parts` in their order after every so many steps, and after the last. every: 0: never.

    enough: whether the run ends with what they have seen; whoever says so has said why."""

    def __init__(
        self,
        every: int,
        last: int,
        chunks: Sequence[torch.nn.Module],
        parts: Sequence[Evaluation],
        enough: Callable[[], bool] = lambda: False,
    ):
        self.every, self.last, self.chunks, self.parts, self.enough = every, last, chunks, parts, enough

    def is_due(self, step: int) -> bool:
        return bool(self.parts and self.every) and (step % self.every == 0 or step == self.last)

    def after(self, step: int) -> dict[str, Any]:
        """The numbers of all parts, with evaluation_seconds; none where no evaluation is due. Collective."""
        if not self.is_due(step):
            return {}
        began = time.monotonic()
        numbers: dict[str, Any] = {}
        with looked_at(self.chunks):
            for part in self.parts:
                phases.enter(phases.SCORING)
                numbers |= part(step)
        return numbers | {"evaluation_seconds": time.monotonic() - began}


@contextmanager
def looked_at(chunks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """A block in which the model is in evaluation mode and has no gradients, and after which it trains on with the
    random numbers that it would have drawn without the block."""
    with platform.kept_random_states(), torch.no_grad():
        for chunk in chunks:
            chunk.eval()
        try:
            yield
        finally:
            for chunk in chunks:
                chunk.train()
