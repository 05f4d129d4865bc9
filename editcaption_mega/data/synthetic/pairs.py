"""Pair i of seed s: a pure function of (settings, s, i). The scene, the edit, the words and the pictures."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from PIL import Image

from editcaption_mega.data.synthetic.edits import HYBRID_ACTIONS, Facts, draw_edit
from editcaption_mega.data.synthetic.effects import describe_changes
from editcaption_mega.data.synthetic.mistakes import mistaken
from editcaption_mega.data.synthetic.phrasing import every_facts, phrase_all, phrase_each
from editcaption_mega.data.synthetic.render import render
from editcaption_mega.data.synthetic.scene import CATEGORY_OF, Scene, WorldSettings, draw_scene
from editcaption_mega.data.synthetic.templates import JOINERS
from editcaption_mega.records import EditPair

_QUOTA = ("semantic", "structural", "stylistic", "structural")  # the paper's 25 / 50 / 25 %, in every four pairs
_MOST_SCENES = 10_000


@dataclass(frozen=True)
class SyntheticPair:
    """A pair and its pictures (RGB, `canvas_size` pixels square; read them, do not draw on them)."""

    pair: EditPair
    source: Image.Image
    target: Image.Image


@dataclass(frozen=True)
class PlannedPair:
    """A pair before its pictures are drawn: everything but pixels."""

    pair: EditPair
    source: Scene
    target: Scene


def render_pair(settings: WorldSettings, seed: int, index: int) -> SyntheticPair:
    """Pair `index` (>= 0) of `seed` (>= 0), with its pictures. Raises ValueError on a negative number."""
    plan = plan_pair(settings, seed, index)
    return SyntheticPair(plan.pair, render(plan.source, settings), render(plan.target, settings))


def plan_pair(settings: WorldSettings, seed: int, index: int) -> PlannedPair:
    """`render_pair` without the pictures."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed is {seed} and index is {index}: both are whole numbers from 0 up")
    edit_type = edit_type_at(settings, seed, index)
    source, target, edits = _draw(settings, edit_type, random.Random(f"{seed}/{index}/scene"))
    words = random.Random(f"{seed}/{index}/words")
    said, wrong = mistaken(edits, settings.caption_mistakes, random.Random(f"{seed}/{index}/mistakes"))
    pair = EditPair(
        id=f"syn-{seed:08d}-{index:06d}",
        category=CATEGORY_OF[edit_type],
        edit_type=edit_type,
        instruction=phrase_all(said, words, phrasings=settings.phrasings),
        changes=describe_changes(source, target, edits),
        provenance={
            "source": "synthetic",
            "seed": seed,
            "index": index,
            "source_scene": source.describe(),
            "target_scene": target.describe(),
            **({"caption_mistakes": list(wrong)} if wrong else {}),
        },
    )
    return PlannedPair(pair, source, target)


def edit_type_at(settings: WorldSettings, seed: int, index: int) -> str:
    """The edit type of a pair. Every four pairs hold one semantic, one stylistic and two structural ones, in a random
    order; within a category every type comes once before any comes again. Categories without an active type are left
    out, and the others keep their shares of 1 : 1 : 2."""
    active = settings.active_edit_types
    quota = [category for category in _QUOTA if any(CATEGORY_OF[name] == category for name in active)]
    block, position = divmod(index, len(quota))
    order = _shuffled(range(len(quota)), f"{seed}/quota/{block}")
    category = quota[order[position]]
    earlier_here = sum(quota[number] == category for number in order[:position])
    number = block * quota.count(category) + earlier_here  # how many pairs of this category came before
    types = [name for name in active if CATEGORY_OF[name] == category]
    turn, place = divmod(number, len(types))
    return _shuffled(types, f"{seed}/{category}/{turn}")[place]


def corpus_texts(settings: WorldSettings, seed: int, count: int) -> list[str]:
    """Instructions to train a small tokenizer on: those of pairs 0 to `count` - 1 of `seed`, then sentences that hold
    every template, every word and every slot value of the grammar (whatever the settings), always the same ones."""
    sampled = [plan_pair(settings, seed, index).pair.instruction for index in range(count)]
    return [text for text in sampled if text is not None] + _covering_texts()


def _covering_texts() -> list[str]:
    """Every template over facts that say every slot value, then every template as the second clause of a hybrid."""
    texts: list[str] = []
    second_clauses: list[str] = []
    seen: set[tuple[object, ...]] = set()
    for facts in every_facts():
        said = {(facts["action"], path, value) for path, value in _flat(facts)}
        if said <= seen:
            continue
        if facts["action"] in HYBRID_ACTIONS and (facts["action"],) not in seen:
            second_clauses += phrase_each(facts)
        seen |= said | {(facts["action"],)}
        texts += phrase_each(facts)
    first = texts[0].rstrip(".")
    joiners = cycle(JOINERS)
    return texts + [first + next(joiners) + second[0].lower() + second[1:] for second in second_clauses]


def _flat(facts: Facts) -> list[tuple[str, object]]:
    found = []
    for key, value in facts.items():
        found += [(f"{key}.{inner}", v) for inner, v in value.items()] if isinstance(value, dict) else [(key, value)]
    return found


def _draw(settings: WorldSettings, edit_type: str, rng: random.Random) -> tuple[Scene, Scene, list[Facts]]:
    for _ in range(_MOST_SCENES):
        source = draw_scene(settings, rng, lettered=0.5 if edit_type == "text" else 0.25)
        if drawn := draw_edit(source, edit_type, rng, textures=settings.textures):
            edits, target = drawn
            return source, target, edits
    raise AssertionError(f"no scene of {settings} allows the edit type {edit_type!r}")


def _shuffled[Value](values: Sequence[Value], seed: str) -> list[Value]:
    order = list(values)
    random.Random(seed).shuffle(order)
    return order
