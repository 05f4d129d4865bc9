"""A sample as the model sees it: the tokens of a pair and of its answers, and its pictures, not read yet."""

from dataclasses import dataclass
from typing import Protocol

from PIL import ImageOps
from torch import Tensor

from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.images.patches import Grid, ImageSettings, image_grid, image_patches
from editcaption_mega.data.shards.reader import ShardError, ShardReader, Side
from editcaption_mega.data.shards.unreadable import read_twice


class UnreadImage(Protocol):
    """A picture whose `grid` is known before its pixels are read."""

    @property
    def grid(self) -> Grid: ...

    def load(self) -> Tensor:
        """-> [patches, patch_size ** 2 * 3] uint8, as `image_patches` has them."""
        ...


@dataclass(frozen=True)
class ImageRef:
    """One picture of a pair in shards, by place: nothing is read before `load`."""

    shards: ShardReader
    index: int
    side: Side
    settings: ImageSettings
    grid: Grid
    mirrored: bool = False  # left for right, as `load` gives it

    @classmethod
    def of(
        cls, shards: ShardReader, index: int, side: Side, settings: ImageSettings, *, mirrored: bool = False
    ) -> "ImageRef":
        """Raises ValueError, naming the sample, for a picture whose shape the model does not take."""
        meta = shards.meta(index)
        try:
            grid = image_grid(*meta.size(side), settings)
        except ValueError as error:
            raise ValueError(
                f"sample {meta.id}: its {side} picture cannot be used ({error}): crop it or remove the sample"
            ) from None
        return cls(shards, index, side, settings, grid, mirrored)

    def load(self) -> Tensor:
        """Read and decode this picture alone -> [patches, patch_size ** 2 * 3] uint8, as `image_patches` has them.

        Raises ShardError and ImageError, and ShardError for a picture that is not the one that the index has."""
        meta = self.shards.meta(self.index)
        data = self.shards.picture(self.index, self.side)
        image = decode_image(data, where=f"{meta.id} ({self.side})")
        width, height = meta.size(self.side)
        if image.size != (width, height):
            raise ShardError(
                f"sample {meta.id}: its {self.side} picture has {image.width} x {image.height} pixels, index.json says "
                f"{width} x {height}: the shards were changed after they were made; make them again"
            )
        if not self.shards.is_written(self.index, self.side, data):
            raise ShardError(
                f"sample {meta.id}: its {self.side} picture can be decoded and is not the one that was written, by its "
                "sha256 in the index: the shards were damaged or changed; copy or make them again"
            )
        return image_patches(ImageOps.mirror(image) if self.mirrored else image, self.settings)


@dataclass(frozen=True)
class NumberedImage:
    """A picture that says of which sample it is when it cannot be used."""

    image: UnreadImage
    number: int

    @property
    def grid(self) -> Grid:
        return self.image.grid

    def load(self) -> Tensor:
        """As `UnreadImage.load`. Raises UnreadableError for bad data."""
        return read_twice(self.number, self.image.load)


@dataclass(frozen=True)
class EncodedSample:
    """One sample as tokens: a prompt and its answers, which are one (SFT), two (chosen, rejected) or none yet.

    `images` are its pictures in the order of the prompt: source, target. With `shared_prompt` the prompt stands once
    before all answers, otherwise once before each: the same numbers from more tokens."""

    id: str
    prompt_ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    images: tuple[UnreadImage, ...]
    shared_prompt: bool = True

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens of all answers, one after the other."""
        return tuple(token for answer in self.answers for token in answer)

    @property
    def grids(self) -> tuple[Grid, ...]:
        return tuple(image.grid for image in self.images)

    @property
    def prompts_with_answers(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """The answers behind each copy of the prompt."""
        return (self.answers,) if self.shared_prompt else tuple((answer,) for answer in self.answers)

    @property
    def num_tokens(self) -> int:
        """What the sample takes of a packed sequence."""
        return len(self.prompt_ids) * len(self.prompts_with_answers) + sum(map(len, self.answers))
