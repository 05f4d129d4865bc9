"""The grammar of the synthetic world as a table: what each edit may say and in which words.

A template's slot `{object.colour}` is a path into the facts. `{to!er}` is the same path in another spelling (here
"larger" for "large"). Every form has four templates; none holds the word of a joiner, so hybrids split into clauses.
`phrasing.py` writes and reads with this table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from editcaption_mega.data.synthetic.scene import (
    BACKGROUNDS,
    CELL_OF,
    COLOURS,
    COUNTS,
    DIRECTIONS,
    LETTERS,
    SHAPES,
    SIZES,
    TEXTURES,
    TONES,
)

JOINERS = (" and ", ", then ", ", also ")


@dataclass(frozen=True)
class Form:
    """One kind of clause: the action, what each slot may hold, and the templates that say it."""

    action: str
    slots: Mapping[str, Sequence[Any]]
    templates: tuple[str, ...]


_OBJECT = {"object.colour": COLOURS, "object.shape": SHAPES}
_O = "{object.colour} {object.shape}"
_MADE = "{object.size} {object.colour} {object.shape}"
_WITH = "{with.colour} {with.shape}"
_MANY = "{object.colour} {object.shape!plural}"

FORMS: tuple[Form, ...] = (
    Form(
        "add",
        {"object.size": SIZES, **_OBJECT, "place": tuple(CELL_OF)},
        (
            f"Add a {_MADE} at the {{place}}",
            f"SamplePlace a {_MADE} in the {{place}} cell",
            f"Put a new {_MADE} at the {{place}}",
            f"Draw a {_MADE} in the {{place}} cell",
        ),
    ),
    Form(
        "remove",
        _OBJECT,
        (
            f"Remove the {_O} from the picture",
            f"Delete the {_O} from the picture",
            f"Take the {_O} out of the picture",
            f"Erase the {_O} from the scene",
        ),
    ),
    Form(
        "replace",
        {**_OBJECT, "with.colour": COLOURS, "with.shape": SHAPES},
        (
            f"Replace the {_O} with a {_WITH}",
            f"Swap the {_O} for a {_WITH}",
            f"Turn the {_O} into a {_WITH}",
            f"Put a {_WITH} in place of the {_O}",
        ),
    ),
    Form(
        "count",
        {**_OBJECT, "count": COUNTS},
        (
            f"Change the number of {_MANY} to {{count}}",
            f"Set the number of {_MANY} to {{count}}",
            f"Make the number of {_MANY} {{count}}",
            f"Let the number of {_MANY} be {{count}}",
        ),
    ),
    Form(
        "background",
        {"to": BACKGROUNDS},
        (
            "Change the background to {to}",
            "Make the whole background {to}",
            "Paint the whole background {to}",
            "Set the background colour to {to}",
        ),
    ),
    Form(
        "recolour",
        {**_OBJECT, "to": COLOURS},
        (
            f"Change the colour of the {_O} to {{to}}",
            f"Recolour the {_O} to {{to}}",
            f"Paint the {_O} {{to}}",
            f"Make the colour of the {_O} {{to}}",
        ),
    ),
    Form(
        "retexture",
        {**_OBJECT, "to": TEXTURES},
        (
            f"Give the {_O} a {{to}} texture",
            f"Change the texture of the {_O} to {{to}}",
            f"Make the texture of the {_O} {{to}}",
            f"Cover the {_O} with a {{to}} texture",
        ),
    ),
    Form(
        "tone",
        {"to": TONES},
        (
            "Make the whole picture {to}",
            "Change the whole picture to {to}",
            "Let the whole picture be {to}",
            "Make the whole scene look {to}",
        ),
    ),
    Form(
        "text",
        {"to": LETTERS, "place": tuple(CELL_OF)},
        (
            "Write the letter {to} at the {place}",
            "Add the letter {to} at the {place}",
            "Put the letter {to} in the {place} cell",
            "Draw the letter {to} in the {place} cell",
        ),
    ),
    Form(
        "text",
        {"from": LETTERS, "to": LETTERS},
        (
            "Change the letter {from} to {to}",
            "Replace the letter {from} with {to}",
            "Turn the letter {from} into {to}",
            "Swap the letter {from} for {to}",
        ),
    ),
    Form(
        "move",
        {**_OBJECT, "direction": tuple(DIRECTIONS)},
        (
            f"Move the {_O} one cell {{direction}}",
            f"Shift the {_O} one cell {{direction}}",
            f"Slide the {_O} {{direction}} by one cell",
            f"Push the {_O} {{direction}} by one cell",
        ),
    ),
    Form(
        "resize",
        {**_OBJECT, "to": SIZES},
        (
            f"Make the {_O} {{to!er}}",
            f"Change the size of the {_O} to {{to}}",
            f"Resize the {_O} to be {{to}}",
            f"Let the {_O} be {{to!er}}",
        ),
    ),
    Form(
        "camera_zoom",
        {"direction": ("in", "out")},
        (
            "Zoom the camera {direction}",
            "Make the camera zoom {direction}",
            "Let the camera zoom {direction}",
            "Zoom {direction} with the camera",
        ),
    ),
    Form(
        "camera_pan",
        {"direction": tuple(DIRECTIONS)},
        (
            "Pan the camera {direction} by one cell",
            "Move the camera {direction} by one cell",
            "Let the camera pan {direction} by one cell",
            "Shift the camera one cell {direction}",
        ),
    ),
    Form(
        "mirror",
        {"axis": ("horizontal", "vertical")},
        (
            "Mirror the whole picture {axis!ly}",
            "Flip the whole picture {axis!ly}",
            "Mirror the camera view {axis!ly}",
            "Flip the camera view {axis!ly}",
        ),
    ),
)

SPELLINGS: dict[str, dict[Any, str]] = {
    "": {1: "one", 2: "two", 3: "three", 4: "four"},
    "plural": {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES},
    "er": {"small": "smaller", "large": "larger"},
    "ly": {"horizontal": "horizontally", "vertical": "vertically"},
}
