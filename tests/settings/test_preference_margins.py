"""Margins from severity, hardness and failure mode: off by default, and refused where they would do nothing."""

import pytest

from editcaption_mega.settings import PreferenceSettings, SettingsError


def test_all_of_it_is_off_by_default():
    settings = PreferenceSettings()
    settings.validate()
    assert (settings.severity_margin, settings.hardness_margin) == (0.0, 0.0)
    assert set(settings.failure_mode_weights.values()) == {1.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hardness_margin": -1.0}, "preference.hardness_margin=-1.0"),
        ({"detail_weight": -1.0, "hardness_margin": 1.0}, "preference.detail_weight=-1.0"),
        ({"viewpoint_weight": 2.0}, "preference.viewpoint_weight=2.0 multiplies the margins .* and both are 0"),
        ({"hardness_margin": 1.0, "loss": "simpo"}, "simpo has no reference: set it to 0"),
    ],
)
def test_what_cannot_work_is_refused(values, message):
    with pytest.raises(SettingsError, match=message):
        PreferenceSettings(**values).validate()
