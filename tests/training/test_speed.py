"""Where the interpreter looks for cycles: between steps, on all ranks at once."""

import gc
import weakref

from editcaption_mega.training.loop import Span, run_steps
from editcaption_mega.training.speed import manual_garbage_collection


class Circle:
    def __init__(self):
        self.itself = self


def circle() -> weakref.ref:
    return weakref.ref(Circle())


def test_cycles_are_looked_for_when_it_is_asked():
    with manual_garbage_collection() as collect:
        assert not gc.isenabled() and gc.get_freeze_count() > 0
        young = circle()
        assert young() is not None
        collect(1)
        assert young() is None
        old = circle()
        gc.collect(0)  # what survives two searches is of the oldest
        kept = circle()
        holder = kept()
        gc.collect(1)
        del holder
        collect(99)
        collect(100)
        assert old() is None and kept() is None
    assert gc.isenabled() and gc.get_freeze_count() == 0


def test_the_loop_turns_the_search_off_while_steps_are_computed():
    seen = []

    def no_steps():
        seen.append(gc.isenabled())
        return
        yield

    assert run_steps(None, None, no_steps(), Span(0, 0, 1), None) == (0, 0)
    assert seen == [False] and gc.isenabled()
