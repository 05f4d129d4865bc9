"""What any of several runs cannot be is said before the first one begins."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from editcaption_mega import platform
from editcaption_mega.conversion import AdapterChoice
from editcaption_mega.data.start_tables import TABLES
from editcaption_mega.model import Architecture
from editcaption_mega.objectives import DPOObjective, Objective, SFTObjective
from editcaption_mega.settings import DPOSettings, JobSettings, SettingsError, before_work, earlier_run

from .adapter_state import check_start
from .loggers import check_chosen
from .pair_facts import pair_facts
from .prepare import Opened, open_data, open_model
from .run_folder import look_where_to_start
from .sampled_pairs import check_samples_fit
from .setup import measure_samples

type _Model = tuple[Architecture, AdapterChoice | None]


def check_settings(runs: Mapping[str, JobSettings]) -> dict[str, _Model]:
    """The model and adapters of each run. Raises SettingsError, with the run's name, for what cannot fit these."""
    models = {}
    for name, settings in runs.items():
        with of_run(name):
            models[name] = open_model(settings, _objective(settings))
    return models


def check_data(runs: Mapping[str, JobSettings], models: Mapping[str, _Model]) -> None:
    """Open what each run reads: its pairs, which have room in its rows, the adapters that it starts from, its folder
    and the checkpoint that it goes on from. Nothing is written there. Collective, once the ranks are joined.

    Raises SettingsError, with the run's name, for the first that cannot be used."""
    measured: set[str] = set()
    for name, settings in runs.items():
        with of_run(name), before_work():
            _check_run(settings, models[name], measured, start_will_be=bool(earlier_run(runs, name)))


def _check_run(settings: JobSettings, model: _Model, measured: set[str], *, start_will_be: bool) -> None:
    """measured: of the data that have been found to be usable, which takes long. start_will_be: an earlier run makes
    the adapters to start from."""
    objective, (architecture, adapters) = _objective(settings), model
    opened = open_data(settings, objective, architecture, Path(settings.training.output) / TABLES)
    if platform.from_rank_zero(lambda: look_where_to_start(settings, opened.parts, objective.files)):
        return  # its pairs were measured then, and its adapters are those of the checkpoint
    platform.from_rank_zero(lambda: check_chosen(settings))
    if adapters is not None and not start_will_be:
        platform.from_rank_zero(lambda: check_start(adapters, opened.base))
    data = opened.dataset
    held_out = (settings.evaluation.every, settings.samples)
    key = repr((data.fingerprint, data.answers, data.shared_prompt, settings.data, held_out, _preference(settings)))
    if key not in measured:
        _measure(settings, opened)
        measured.add(key)


def _measure(settings: JobSettings, opened: Opened) -> None:
    length, skip_bad = settings.data.sequence_length, settings.data.skips_bad_samples
    datasets = [opened.dataset]
    if opened.held_out is not None:
        datasets.append(opened.dataset.of_shards(opened.held_out.shards.reader))
    for dataset in datasets:
        measure_samples(dataset, length, skip_bad=skip_bad)
        if isinstance(settings, DPOSettings):
            pair_facts(dataset, settings.preference, skip_bad=skip_bad)
    if opened.held_out is not None and settings.evaluation.every:
        with platform.together():
            check_samples_fit(datasets[-1], settings.samples, length)


def _objective(settings: JobSettings) -> type[Objective]:
    return DPOObjective if isinstance(settings, DPOSettings) else SFTObjective


def _preference(settings: JobSettings) -> object:
    return settings.preference if isinstance(settings, DPOSettings) else None


@contextmanager
def of_run(name: str) -> Iterator[None]:
    """A block whose errors say which run they are of."""
    try:
        yield
    except SettingsError as error:
        raise SettingsError(f"run {name}: {error}") from error
    except Exception as error:
        error.add_note(f"this was run {name}")
        raise
