"""docs/settings.md is what the source says, and every setting has words."""

from pathlib import Path

import pytest

from editcaption_mega.settings.settings_page import settings_page

PAGE = Path(__file__).resolve().parents[2] / "docs/settings.md"


def test_the_page_is_of_this_source():
    assert PAGE.read_text(encoding="utf-8") == settings_page(), "run `make settings`"


def test_every_setting_has_words():
    rows = [line for line in settings_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    assert [row for row in rows if row.endswith("|  |")] == [], "a comment beside the field says what it is"


@pytest.mark.parametrize(
    "words",
    (
        "| `training.steps` | integer | `0` | optimizer steps; 0: from `epochs` |",
        "| `parallel.delayed_weight_gradients` | list of integer, or null | `null` | A stage sends on",
        "### `preference`",
        '| `judges[].kind` | `model`, `rule` | `"model"` |',
    ),
)
def test_types_defaults_and_comments_are_the_source_s(words):
    assert words in settings_page()
