"""The nouns of the synthetic world: settings, items, scenes, and the pure choice of a random scene.

A scene is a plain background with a 3 x 3 grid of cells. Each cell is empty or holds one item: a group of one to four
identical objects, or one capital letter. At the default canvas (96 px) a cell is 32 px: one visual token of Qwen3-VL.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from editcaption_mega.records.pair import FAILURE_MODES

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black")
SIZES = ("small", "large")
TEXTURES = ("plain", "striped", "dotted")
BACKGROUNDS = ("white", "grey", "beige", "pink")
LETTERS = ("B", "E", "H", "K", "M", "T", "U", "Z")  # no "A": it reads like the article
TONES = ("grayscale", "sepia", "inverted", "darker", "brighter")
COUNTS = (1, 2, 3, 4)
DIRECTIONS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}  # (rows, columns)
GRID = 3
CELLS = tuple((row, col) for row in range(GRID) for col in range(GRID))
PLACES = {
    (row, col): "center"
    if row == col == 1
    else f"{('top', 'middle', 'bottom')[row]} {('left', 'center', 'right')[col]}"
    for row, col in CELLS
}
CELL_OF = {name: cell for cell, name in PLACES.items()}

# The paper's taxonomy (section 3.1); "count" is counted as semantic: it adds or removes copies.
CATEGORY_OF = {
    "add": "semantic",
    "remove": "semantic",
    "replace": "semantic",
    "count": "semantic",
    "background": "semantic",
    "recolour": "stylistic",
    "retexture": "stylistic",
    "tone": "stylistic",
    "move": "structural",
    "resize": "structural",
    "text": "structural",
    "camera_zoom": "structural",
    "camera_pan": "structural",
    "mirror": "structural",
    "hybrid": "structural",
}
EDIT_TYPES = tuple(CATEGORY_OF)

_GROUPED_SCENES = 0.2  # share of scenes where one item is a group of several objects


@dataclass(frozen=True)
class WorldSettings:
    """What the world draws. Raises ValueError on settings it cannot draw.

    canvas_size: side of the square picture in pixels, a multiple of 3, at least 48 (96 gives 32 px cells).
    grid: cells per side; 3 is the only size that the place words name.
    min_objects, max_objects: objects (or groups) in the source scene, 2 to 6.
    textures: False draws plain objects only, and leaves the edit type "retexture" out.
    edit_types: the edit types to draw, from EDIT_TYPES; None is all of them.
    phrasings: how many of each edit's four phrasings are used, 1 to 4 (fewer make an easier language).
    supersampling: factor at which shapes are drawn before they are reduced to pixels, 1 to 8.
    caption_mistakes: by failure mode, the chance that a pair's instruction is wrong where it can be (mistakes.py).
    """

    canvas_size: int = 96
    grid: int = GRID
    min_objects: int = 2
    max_objects: int = 4
    textures: bool = True
    edit_types: tuple[str, ...] | None = None
    phrasings: int = 4
    supersampling: int = 4
    caption_mistakes: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.canvas_size < 48 or self.canvas_size % GRID:
            raise ValueError(f"canvas_size is {self.canvas_size}: give a multiple of {GRID}, at least 48")
        if self.grid != GRID:
            raise ValueError(
                f"grid is {self.grid}: the words for places name {GRID} rows and columns, set grid to {GRID}"
            )
        if not 2 <= self.min_objects <= self.max_objects <= 6:
            raise ValueError(
                f"min_objects is {self.min_objects} and max_objects is {self.max_objects}: "
                "expected 2 <= min_objects <= max_objects <= 6"
            )
        if not 1 <= self.phrasings <= 4:
            raise ValueError(f"phrasings is {self.phrasings}: expected 1 to 4")
        if not 1 <= self.supersampling <= 8:
            raise ValueError(f"supersampling is {self.supersampling}: expected 1 to 8")
        if not isinstance(self.caption_mistakes, Mapping):
            raise ValueError(f"caption_mistakes is {self.caption_mistakes!r}: give a share for each failure mode")
        for mode, rate in self.caption_mistakes.items():
            if mode not in FAILURE_MODES or not isinstance(rate, int | float) or not 0 <= rate <= 1:
                raise ValueError(
                    f"caption_mistakes has {mode}: {rate}: give shares from 0 to 1 for {', '.join(FAILURE_MODES)}"
                )
        if self.edit_types is not None:
            object.__setattr__(self, "edit_types", tuple(self.edit_types))
            self._check_edit_types(self.edit_types)

    def _check_edit_types(self, edit_types: tuple[str, ...]) -> None:
        unknown = [name for name in edit_types if name not in CATEGORY_OF]
        if unknown or not edit_types or len(set(edit_types)) != len(edit_types):
            raise ValueError(f"edit_types is {list(edit_types)}: give each at most once, from {', '.join(EDIT_TYPES)}")
        if "retexture" in edit_types and not self.textures:
            raise ValueError("edit_types has 'retexture' while textures is False: remove it or set textures to True")

    @property
    def active_edit_types(self) -> tuple[str, ...]:
        """The edit types that these settings draw, in the order of EDIT_TYPES."""
        wanted = self.edit_types or tuple(name for name in EDIT_TYPES if self.textures or name != "retexture")
        return tuple(name for name in EDIT_TYPES if name in wanted)


@dataclass(frozen=True)
class Item:
    """One object, or a group of `count` identical ones, in one cell.

    A group's objects are small, so that four fit; only large objects carry a texture, so that it is seen."""

    shape: str
    colour: str
    cell: tuple[int, int]
    size: str = "large"
    texture: str = "plain"
    count: int = 1

    @property
    def identity(self) -> tuple[str, str]:
        """(colour, shape): unique in a scene, so "the red circle" has one reading."""
        return self.colour, self.shape

    @property
    def reference(self) -> dict[str, str]:
        """How facts name this item."""
        return {"colour": self.colour, "shape": self.shape}

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """What a picture shows. Cells are the world's; `zoom`, `flip` and `tone` are applied to the finished view.

    letter: (capital, cell) or None. flip: "" or "horizontal" (left and right swap) or "vertical" (top and bottom swap).
    zoom: "" or "in" or "out". tone: "" or one of TONES.
    """

    background: str
    items: tuple[Item, ...]
    letter: tuple[str, tuple[int, int]] | None = None
    zoom: str = ""
    flip: str = ""
    tone: str = ""

    @property
    def occupied(self) -> set[tuple[int, int]]:
        cells = {item.cell for item in self.items}
        return cells | {self.letter[1]} if self.letter else cells

    @property
    def identities(self) -> set[tuple[str, str]]:
        return {item.identity for item in self.items}

    def find(self, reference: dict[str, str]) -> Item | None:
        """The item with this colour and shape, or None."""
        wanted = reference.get("colour"), reference.get("shape")
        return next((item for item in self.items if item.identity == wanted), None)

    def item(self, reference: dict[str, str]) -> Item:
        """As `find`, of an item that is there."""
        item = self.find(reference)
        assert item is not None, f"there is no {reference} in the scene"
        return item

    def describe(self) -> dict[str, Any]:
        """A JSON object without nulls that holds the whole scene (goes into a pair's provenance)."""
        found: dict[str, Any] = {
            "background": self.background,
            "items": [
                {
                    "shape": item.shape,
                    "colour": item.colour,
                    "size": item.size,
                    "texture": item.texture,
                    "count": item.count,
                    "place": PLACES[item.cell],
                }
                for item in self.items
            ],
        }
        if self.letter:
            found["letter"] = {"text": self.letter[0], "place": PLACES[self.letter[1]]}
        found.update({key: value for key in ("zoom", "flip", "tone") if (value := getattr(self, key))})
        return found


def draw_scene(settings: WorldSettings, rng: random.Random, *, lettered: float = 0.25) -> Scene:
    """A random scene: distinct objects in distinct cells, sometimes a group, with a letter in a share of `lettered`."""
    count = rng.randint(settings.min_objects, settings.max_objects)
    cells = rng.sample(CELLS, count + 1)
    identities = rng.sample(range(len(SHAPES) * len(COLOURS)), count)
    items = []
    for number, cell in zip(identities, cells, strict=False):
        shape, colour, size = SHAPES[number % len(SHAPES)], COLOURS[number // len(SHAPES)], rng.choice(SIZES)
        textured = settings.textures and size == "large"
        items.append(Item(shape, colour, cell, size, rng.choice(TEXTURES) if textured else "plain"))
    if rng.random() < _GROUPED_SCENES:
        chosen = rng.randrange(count)
        items[chosen] = replace(items[chosen], size="small", texture="plain", count=rng.choice(COUNTS[1:]))
    letter = (rng.choice(LETTERS), cells[-1]) if rng.random() < lettered else None
    return Scene(background=rng.choice(BACKGROUNDS), items=tuple(items), letter=letter)
