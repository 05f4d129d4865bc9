"""The loggers of a run together: what one of them raises ends it alone."""

import numpy as np
import pytest

from editcaption_mega.training.loggers import Logger, Loggers


class Kept(Logger):
    """Keeps what it is given, until it fails."""

    name = "Kept"

    def __init__(self, fails_at: int = 0, error: Exception | None = None):
        self.calls, self.fails_at, self.error = [], fails_at, error

    def _take(self, *call):
        if self.error and call[1] == self.fails_at:
            raise self.error
        self.calls.append(call)

    def settings(self, values):
        self._take("settings", 0, values)

    def scalars(self, step, values):
        self._take("scalars", step, values)

    def text(self, step, name, words):
        self._take("text", step, name, words)

    def image(self, step, name, pixels):
        self._take("image", step, name, pixels.shape)

    def close(self, failed=False):
        self._take("close", -1, failed)


def use(loggers: Loggers) -> None:
    loggers.settings({"a.b": 1})
    for step in (1, 2, 3):
        loggers.scalars(step, {"train/loss": step / 2})
    loggers.text(3, "samples/1", "words")
    loggers.image(3, "samples/1", np.zeros((4, 6, 3), np.uint8))
    loggers.close(True)


ALL = [
    ("settings", 0, {"a.b": 1}), ("scalars", 1, {"train/loss": 0.5}), ("scalars", 2, {"train/loss": 1.0}),
    ("scalars", 3, {"train/loss": 1.5}), ("text", 3, "samples/1", "words"), ("image", 3, "samples/1", (4, 6, 3)),
    ("close", -1, True),
]  # fmt: skip


def test_each_logger_gets_all():
    first, second, said = Kept(), Kept(), []
    use(Loggers([first, second], said.append))
    assert first.calls == second.calls == ALL and said == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("a library's own words")])
@pytest.mark.parametrize("fails_at, where", [(0, "before the first step"), (2, "before step 2"), (-1, "at the last")])
def test_what_fails_is_said_once_and_ends_alone(error, fails_at, where):
    broken, whole, said = Kept(fails_at, error), Kept(), []
    use(Loggers([broken, whole], said.append))
    assert whole.calls == ALL
    assert len(said) == 1 and said[0].startswith(f"WARNING: Kept ends {where}") and str(error) in said[0]
    assert said[0].endswith("metrics.jsonl has every step")
    reached = [call[1] for call in broken.calls]
    assert fails_at not in reached and reached == [call[1] for call in ALL][: len(reached)]


def test_its_words_have_one_line_and_no_secret(monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "k1k2k3k4k5k6")
    said = []
    problem = ConnectionError("401 for https://me:word@host/x?token=abc\nwith key k1k2k3k4k5k6")
    use(Loggers([Kept(1, problem)], said.append))
    (line,) = said
    assert "401 for" in line and "\n" not in line
    assert not any(secret in line for secret in ("k1k2", "word@", "abc"))
