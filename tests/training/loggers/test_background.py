"""A logger in a thread: all arrives in order, its errors at the next call, and nobody waits for it."""

import threading
import time

import numpy as np
import pytest

from editcaption_mega.training.loggers import Loggers
from editcaption_mega.training.loggers.background import BackgroundLogger

from .test_logger import ALL, Kept, use


def test_all_arrives_in_order():
    kept, said = Kept(), []
    use(Loggers([BackgroundLogger("Kept", lambda: kept)], said.append))
    assert kept.calls == ALL and said == []


def test_what_it_raises_is_raised_at_the_next_call():
    logger = BackgroundLogger("Kept", lambda: Kept(2, OSError("the disk is away")))
    logger.scalars(1, {})
    logger.scalars(2, {})
    with pytest.raises(OSError, match="the disk is away"):
        for step in range(3, 2000):
            time.sleep(0.01)
            logger.scalars(step, {})


def test_what_cannot_begin_ends_at_the_latest_with_the_run():
    def refuses():
        raise ConnectionError("no route to host")

    said = []
    use(Loggers([BackgroundLogger("Kept", refuses)], said.append))
    assert len(said) == 1 and said[0].startswith("WARNING: Kept ends ") and "(no route to host)" in said[0]


class Stuck(Kept):
    def __init__(self):
        super().__init__()
        self.free = threading.Event()

    def image(self, step, name, pixels):
        self.free.wait(600)


@pytest.mark.parametrize("waiting, words", [(4, "it does not keep up: 4 entries wait"), (99, "within 0.05 s")])
def test_nobody_waits_for_what_is_stuck(waiting, words):
    stuck, said = Stuck(), []
    loggers = Loggers([BackgroundLogger("Stuck", lambda: stuck, most_waiting=waiting, patience=0.05)], said.append)
    loggers.image(1, "a/b", np.zeros((1, 1, 3), np.uint8))
    for step in range(1, 9):
        loggers.scalars(step, {"train/loss": 0.5})
    loggers.close()
    stuck.free.set()
    assert len(said) == 1 and words in said[0]
