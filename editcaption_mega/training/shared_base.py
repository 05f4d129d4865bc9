"""What runs of adapters that are trained one after another have in common: weights that nothing changes, and ranks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from editcaption_mega.conversion import WeightSource
from editcaption_mega.model import unwrap, weights_to_share


@dataclass
class SharedBase:
    """The weights that the last run's adapters were on, once a run has loaded them, and whether the ranks have met."""

    joined: bool = False
    weights: Sequence[Mapping[str, torch.nn.Parameter]] | None = field(default=None, repr=False)  # of each chunk
    _source: WeightSource | None = None
    _digest: str = ""

    def keep(self, chunks: Sequence[torch.nn.Module], source: WeightSource, digest: str) -> None:
        """These chunks, which are not wrapped, hold the weights of the source, whose content has this digest."""
        self.weights = [weights_to_share(unwrap(chunk)) for chunk in chunks]
        self._source, self._digest = source, digest

    def holds(self, source: WeightSource, digest: str) -> bool:
        """Whether the weights are those of the source as it is now; if not they are let go."""
        if self.weights is not None and (source, digest) != (self._source, self._digest):
            self.forget()
        return self.weights is not None

    def forget(self) -> None:
        """The weights are let go, or about to be changed."""
        self.weights = self._source = None
