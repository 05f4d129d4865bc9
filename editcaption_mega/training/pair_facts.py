"""What a preference objective must know of each pair besides its tokens: a few bytes each, and no object per pair."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from editcaption_mega import platform
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.shards.unreadable import is_bad_data
from editcaption_mega.data.start_tables import Arrays, table
from editcaption_mega.objectives import PairFacts
from editcaption_mega.records.pair import FAILURE_MODES
from editcaption_mega.settings import PreferenceSettings, SettingsError

_NO_MODE, _UNTAGGED, _UNREAD = -1, -2, -3


@dataclass(frozen=True)
class PairTable:
    """The facts of N pairs under some settings, by their numbers.

    primary [N] int8: the first failure mode's place in FAILURE_MODES, or why there is none; modes [N] uint8: a bit for
    each; margin, hardness_margin [N] fp64: as `PairFacts` has them"""

    primary: np.ndarray
    modes: np.ndarray
    margin: np.ndarray
    hardness_margin: np.ndarray

    @classmethod
    def plain(cls, count: int) -> "PairTable":
        """Pairs without failure modes or margins."""
        return cls(np.full(count, _NO_MODE, np.int8), np.zeros(count, np.uint8), np.zeros(count), np.zeros(count))

    def __len__(self) -> int:
        return len(self.primary)

    def __getitem__(self, sample: int) -> PairFacts:
        first, bits = int(self.primary[sample]), int(self.modes[sample])
        places = [first] * (first >= 0) + [k for k in range(len(FAILURE_MODES)) if bits >> k & 1 and k != first]
        modes = tuple(FAILURE_MODES[k] for k in places)
        return PairFacts(modes, float(self.margin[sample]), float(self.hardness_margin[sample]))

    @property
    def any_margin(self) -> bool:
        return bool(self.margin.any() or self.hardness_margin.any())


def pair_facts(
    dataset: PairDataset, preference: PreferenceSettings, tables: Path | None = None, *, skip_bad: bool = False
) -> PairTable:
    """What the objective must know of each pair. Collective: the ranks share the reading, once for the folder `tables`.
    skip_bad: of a pair whose record cannot be read it is nothing.

    Raises SettingsError, alike on every rank, for a pair that lacks what the settings need, ValueError for a pair that
    cannot be read."""
    path = tables / "pairs.safetensors" if tables else None
    tags = table(path, {"format": 1, "shards": dataset.shards.fingerprint}, lambda: _read(dataset, skip_bad))
    if len(unread := np.flatnonzero(tags["primary"] == _UNREAD)):
        tags = {name: np.array(values) for name, values in tags.items()}
        with platform.together():
            again = [_tags(dataset, i, skip_bad) for i in unread.tolist()]
        for name, column in zip(("primary", "modes", "severity"), zip(*again, strict=True), strict=True):
            tags[name][unread] = column
    primary, severity = tags["primary"], tags["severity"]
    _refuse_lacking(dataset, primary == _UNTAGGED, np.isnan(severity), preference)
    weights = np.array([*(preference.failure_mode_weights[mode] for mode in FAILURE_MODES), 1.0])
    weight = weights[np.maximum(primary, _NO_MODE)]  # without a failure mode it is the last one's: 1
    margin = weight * preference.severity_margin * np.nan_to_num(severity)
    return PairTable(primary, tags["modes"], margin, weight * preference.hardness_margin)


def _read(dataset: PairDataset, skip_bad: bool) -> Arrays:
    """The tags of all pairs, each read by one rank. Collective."""
    with platform.together():
        part = [_tags(dataset, i, skip_bad) for i in platform.share(range(len(dataset)))]
    primary, modes, severity = platform.gather_shares(np.array(part, np.float64).reshape(-1, 3)).T
    return {"primary": primary.astype(np.int8), "modes": modes.astype(np.uint8), "severity": severity.copy()}


def _tags(dataset: PairDataset, i: int, skip_bad: bool) -> tuple[int, int, float]:
    """primary, modes, severity (NaN: none)"""
    try:
        pair = dataset.shards.pair(i)
    except ValueError as error:
        if skip_bad and is_bad_data(error):
            return _UNREAD, 0, 0.0
        raise
    severity = np.nan if pair.severity is None else pair.severity
    if pair.failure_modes is None:
        return _UNTAGGED, 0, severity
    places = [FAILURE_MODES.index(mode) for mode in pair.failure_modes]
    return places[0] if places else _NO_MODE, sum(1 << place for place in set(places)), severity


def _refuse_lacking(
    dataset: PairDataset, untagged: np.ndarray, unrated: np.ndarray, preference: PreferenceSettings
) -> None:
    """Raise SettingsError for the first pair that does not say what the settings need. untagged, unrated [N] bool:
    those without failure modes (an empty list is some: wrong, but in none of the three ways), without a severity."""
    weights = preference.failure_mode_weights
    weighted = any(weight != 1 for weight in weights.values())
    lacks_modes = untagged & (preference.failure_mode_metrics or weighted)
    lacking = lacks_modes | unrated & bool(preference.severity_margin)
    if not lacking.any():
        return
    first = int(lacking.argmax())
    name = dataset.id(first)
    if not lacks_modes[first]:
        raise SettingsError(
            f"sample {name} has no severity, and preference.severity_margin={preference.severity_margin} makes "
            "its margin from it: give the pair one (0 .. 1), or set preference.severity_margin=0"
        )
    if preference.failure_mode_metrics:
        raise SettingsError(
            f"sample {name} says no failure_modes, and preference.failure_mode_metrics asks for metrics per "
            "failure mode: tag the pair, or set preference.failure_mode_metrics=false"
        )
    said = ", ".join(f"preference.{mode}_weight={weight}" for mode, weight in weights.items())
    raise SettingsError(f"sample {name} says no failure_modes, and {said} go by them: tag the pair, or set them to 1")
