"""Pairs rendered by the synthetic world: every change is known exactly, and no download is needed."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import yaml

from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.importers.candidates import (
    Candidate,
    Importer,
    ImportOptions,
    InputError,
    Rejected,
    input_file,
)

DEFAULT_COUNT = 64

if TYPE_CHECKING:
    from editcaption_mega.data.synthetic import WorldSettings


def read(settings: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
    """Yield `options.count` rendered pairs (default 64) from index `first_index` (default 0) of world `seed` (0).

    `settings` is a YAML or JSON file with fields of `WorldSettings`, or the word "default". Images are PNG bytes. The
    same arguments always give the same bytes. Raises InputError for a missing file or bad settings.
    """
    from editcaption_mega.data.synthetic import render_pair

    world = _world_settings(settings)
    seed, first = options.seed or 0, options.first_index or 0
    for number, index in enumerate(range(first, first + count(settings, options)), start=1):
        rendered = render_pair(world, seed, index)
        yield Candidate(number, rendered.pair, encode_png(rendered.source), encode_png(rendered.target))


def count(settings: str, options: ImportOptions) -> int:
    """The number of pairs that `read` will give."""
    return DEFAULT_COUNT if options.count is None else options.count


def _world_settings(settings: str) -> "WorldSettings":
    from editcaption_mega.data.synthetic import WorldSettings

    if settings == "default":
        return WorldSettings()
    with open(input_file(settings), encoding="utf-8") as file:
        try:
            values = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{settings}: not valid YAML or JSON ({error})") from None
    if not isinstance(values, dict):
        raise InputError(f"{settings}: expected settings as 'name: value', found {type(values).__name__}")
    known = [field.name for field in dataclasses.fields(WorldSettings)]
    unknown = sorted(set(map(str, values)) - set(known))
    if unknown:
        raise InputError(f"{settings}: unknown setting {unknown[0]!r}: the synthetic world has {', '.join(known)}")
    try:
        return WorldSettings(**values)
    except (TypeError, ValueError) as error:
        raise InputError(f"{settings}: {error}") from None


IMPORTER = Importer("synthetic", "a YAML or JSON file of world settings, or 'default'", read, count, takes_options=True)
