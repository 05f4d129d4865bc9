"""Which weights have adapters, and what all of these have in common. Made by `conversion.adapter_table`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

ADAPTERS = ".adapters."  # in the name of each parameter of an adapter, and of no other


@dataclass(frozen=True)
class AdapterPart:
    """An adapter of one Hugging Face module, and which rows of a weight it is on.

    The rows of the weight have axes: [groups, (queries + 2) head_dim] of QKV, [2, ffn] of gate and up. On one of them
    the part is `length` from `start` of `total`; the other it has whole, or of it what this rank has."""

    leaf: str  # last word of the module's name
    axis: int = 0
    start: int = 0
    length: int = 1
    total: int = 1

    @property
    def whole(self) -> bool:
        return self.length == self.total


class Switch:
    """Whether adapters take part."""

    def __init__(self) -> None:
        self.on = True
        self.step = 0  # of the run: part of what dropout depends on

    @contextmanager
    def off(self) -> Iterator[None]:
        """A block in which the model is the base alone."""
        before, self.on = self.on, False
        try:
            yield
        finally:
            self.on = before


@dataclass(frozen=True)
class AdapterPlan:
    """The adapters of a model."""

    rank: int
    scale: float  # of an adapter's output
    dropout: float
    dora: bool
    experts: Literal["each", "shared"]
    seed: int  # of new adapters, and of dropout
    parts: Mapping[
        str, tuple[AdapterPart, ...]
    ]  # of a weight, by its name in the whole model, in the order of its rows
    switch: Switch = field(default_factory=Switch, compare=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "AdapterPlan":
        return self  # Megatron copies configs for some of its modules: there is one switch
