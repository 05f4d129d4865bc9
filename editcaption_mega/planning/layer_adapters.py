"""Adapters of a job whose layers are counted by one of them."""

from editcaption_mega.conversion import AdapterChoice
from editcaption_mega.model import Architecture
from editcaption_mega.settings import JobSettings, SettingsError


def layer_adapters(settings: JobSettings, architecture: Architecture) -> AdapterChoice | None:
    """The adapters of the job. Raises SettingsError where decoder layers have different ones: one stands for all."""
    from editcaption_mega.training.adapter_state import chosen_adapters

    adapters = chosen_adapters(settings, architecture)
    if adapters is not None and not adapters.layers_alike:
        raise SettingsError(
            f"model.adapters.modules={settings.model.adapters.modules} gives decoder layers different adapters, and "
            "here one layer stands for all of them: let the patterns match all layers alike, or plan with --mode "
            "dry-run, which executes each"
        )
    return adapters
