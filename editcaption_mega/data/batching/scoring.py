"""Pairs to be scored, not trained on: texts from elsewhere as their answers, pictures as they are or another way.

A text that a model believes of a pair loses likelihood where the pair says the opposite: the two pictures swapped, or
both mirrored. All texts of a pair share its prompt, so that eight candidates cost little more than one.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.data.images.patches import ImageSettings
from editcaption_mega.data.shards.reader import SIDES, ShardReader
from editcaption_mega.data.text.prompt import ChatEncoder

from .dataset import PairDataset
from .sample import EncodedSample, ImageRef

# given: as the pair is. swapped: the target stands for the source and the source for the target. mirrored: both
# pictures left for right.
View = Literal["given", "swapped", "mirrored"]
VIEWS: tuple[View, ...] = get_args(View)


def view_fingerprint(view: str) -> str:
    """How a file of log-probs names its view; one of the given pictures names none."""
    return hashlib.sha256(view.encode()).hexdigest()


class PairTexts(Protocol):
    """Texts of some pairs of a set."""

    @property
    def positions(self) -> NDArray[np.int64]:
        """[pairs]: where they stand in the shards, in order."""
        ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def most(self) -> int:
        """Texts of a pair at most."""
        ...

    def texts(self, k: int) -> Sequence[str]:
        """Those of the pair at positions[k], one or more."""
        ...


class ScoringDataset(PairDataset):
    """Pairs of shards under a view, with answers of their own or those of `texts`.

    With `texts` only their pairs are there, and `sample(k)` is that of positions[k]."""

    def __init__(
        self,
        shards: ShardReader,
        encoder: ChatEncoder,
        images: ImageSettings,
        *,
        view: View = "given",
        texts: PairTexts | None = None,
        notes: Iterable[str] = (),
    ):
        super().__init__(shards, encoder, images, answers="either", notes=notes)
        self.view, self.texts = view, texts
        if texts is not None:
            self.most_answers = max(2, texts.most)

    @classmethod
    def of(cls, dataset: PairDataset, view: View, texts: PairTexts | None) -> "ScoringDataset":
        return cls(dataset.shards, dataset.encoder, dataset.images, view=view, texts=texts, notes=dataset.notes)

    @property
    def fingerprints(self) -> dict[str, str]:
        parts = super().fingerprints
        if self.view != "given":
            parts["view"] = view_fingerprint(self.view)
        if self.texts is not None:
            parts["texts"] = self.texts.fingerprint
        return parts

    def __len__(self) -> int:
        return len(self.shards) if self.texts is None else len(self.texts.positions)

    def id(self, i: int) -> str:
        return super().id(self._position(i))

    def sample(self, i: int) -> EncodedSample:
        if self.texts is None:
            return super().sample(i)
        name = self.id(i)
        return self._encoded(i, tuple(self._answer(name, "text", text) for text in self.texts.texts(i)))

    def _position(self, i: int) -> int:
        return i if self.texts is None else int(self.texts.positions[i])

    def _pictures(self, i: int) -> tuple[ImageRef, ...]:
        sides = reversed(SIDES) if self.view == "swapped" else SIDES
        mirrored = self.view == "mirrored"
        at = self._position(i)
        return tuple(ImageRef.of(self.shards, at, side, self.images, mirrored=mirrored) for side in sides)
