"""Inputs brought to the device ahead: the thread that computes is not kept waiting by those that read."""

import sys
from contextlib import closing
from types import SimpleNamespace

import pytest

from editcaption_mega import platform
from editcaption_mega.training.inputs import SWITCH_INTERVAL, on_device


@pytest.fixture(autouse=True)
def prepared():
    platform.prepare()


def items(count):
    for number in range(count):
        yield SimpleNamespace(number=number, micro_batches=[])


@pytest.mark.parametrize("take", [3, 1])
def test_threads_take_turns_quickly_while_steps_are_read_ahead(take):
    before = sys.getswitchinterval()
    assert before > SWITCH_INTERVAL
    numbers = []
    with closing(on_device(items(3))) as arriving:
        for item in arriving:
            numbers.append(item.number)
            assert sys.getswitchinterval() == pytest.approx(SWITCH_INTERVAL)
            if len(numbers) == take:
                break
    assert numbers == list(range(take)) and sys.getswitchinterval() == before
