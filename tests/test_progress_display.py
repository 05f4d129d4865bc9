"""What plain lines say of the time left, by a clock of their own."""

from types import SimpleNamespace

import pytest

from editcaption_mega import progress_display
from editcaption_mega.progress_display import duration, progress


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress_display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("sys.stderr.isatty", lambda: False)
    return now


def test_the_first_line_guesses_nothing_and_the_next_ones_go_by_the_rate_since(clock, capsys):
    """A model is loaded for 15 s, then each batch of 16 takes 6 s, whose items come together."""
    for number, _ in enumerate(progress(range(1500), label="base, synthetic")):
        clock[0] += 21 if number == 0 else 6 if number % 16 == 0 else 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == [
        "base, synthetic: 1 of 1500 after 21 s",
        "base, synthetic: 17 of 1500 after 27 s, about 9 min left",
        "base, synthetic: 33 of 1500 after 33 s, about 9 min left",
    ]
    assert lines[-1] == "base, synthetic: 1500 of 1500 in 579.0 s"


def test_a_batch_that_holds_all_items_guesses_nothing(clock, capsys):
    for number, _ in enumerate(progress(range(24), label="captions")):
        clock[0] += 19 if number == 0 else 0
    assert capsys.readouterr().err.splitlines() == ["captions: 1 of 24 after 19 s", "captions: 24 of 24 in 19.0 s"]


def test_durations_are_read_at_a_glance():
    seconds = (0.4, 119, 120, 436, 7199, 7200, 31923, 172800)
    assert [duration(each) for each in seconds] == [
        "0 s", "119 s", "2 min", "7 min", "120 min", "2.0 h", "8.9 h", "2.0 days",
    ]  # fmt: skip
