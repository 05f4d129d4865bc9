"""The synthetic world: rendered image pairs with exact ground truth, for the demo, the tests and the benchmarks.

`render_pair(settings, seed, index)` is a pure function: the same three arguments give the same bytes on every run.
"""

from .edits import CAMERA_ACTIONS, EditError, apply_edits
from .pairs import PlannedPair, SyntheticPair, corpus_texts, edit_type_at, plan_pair, render_pair
from .phrasing import parse, phrase, phrase_all, vocabulary
from .render import render
from .scene import CATEGORY_OF, EDIT_TYPES, Item, Scene, WorldSettings

__all__ = [
    "CAMERA_ACTIONS",
    "CATEGORY_OF",
    "EDIT_TYPES",
    "EditError",
    "Item",
    "PlannedPair",
    "Scene",
    "SyntheticPair",
    "WorldSettings",
    "apply_edits",
    "corpus_texts",
    "edit_type_at",
    "parse",
    "phrase",
    "phrase_all",
    "plan_pair",
    "render",
    "render_pair",
    "vocabulary",
]
