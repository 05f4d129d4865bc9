"""Generation in process hands every text to `answer`, and a pair's draws are its own."""

from types import SimpleNamespace

import pytest
import torch

from editcaption_mega.inference.local.generator import Generation
from editcaption_mega.inference.local.instructions import write_instructions
from tests.helpers import tiny


class Pairs:
    images = tiny.IMAGES

    def __init__(self, names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def id(self, i):
        return self.names[i]

    def prompt(self, i):
        image = SimpleNamespace(load=lambda: torch.zeros(0, 48, dtype=torch.uint8))
        return SimpleNamespace(id=self.names[i], prompt_ids=[1], images=[image], grids=[(1, 2, 2)])


class Scripted:
    def __init__(self, *answers):
        self.answers, self.numbers = answers, []

    def generate(self, prompts, *, seed, numbers, **_):
        assert seed == 7
        self.numbers += numbers
        return [self.answers[len(self.numbers) % len(self.answers)] for _ in prompts]


@pytest.mark.parametrize(
    "text, finished, status, instruction",
    [
        ("Add a hat.", True, "ok", "Add a hat."),
        ("Add a", False, "truncated", "Add a"),
        ("<think>I see</think>Add a hat.", True, "ok", "Add a hat."),
        ("I see</think>Add a", False, "truncated", "Add a"),
        ("<think>I see", False, "malformed", ""),
        ("<think>I see", True, "malformed", ""),
        ("<think>I see</think>", True, "malformed", ""),
        ("", True, "malformed", ""),
        (" ", False, "malformed", ""),
    ],
)
def test_every_ending_in_process(text, finished, status, instruction):
    (row,) = write_instructions(Scripted(Generation(text, 5, finished)), Pairs(["a"]), seed=7)
    assert (row["status"], row["instruction"], row["finished"]) == (status, instruction, finished)
    assert bool(row["reason"]) == (status != "ok") and ("I see" in row["thought"]) == ("I see" in text)


def test_what_is_drawn_for_a_pair_depends_on_its_id_alone():
    whole, some = Scripted(Generation("x", 1, True)), Scripted(Generation("x", 1, True))
    names = [f"pair-{i}" for i in range(5)]
    assert [row["id"] for row in write_instructions(whole, Pairs(names), seed=7, batch_size=2)] == names
    list(write_instructions(some, Pairs(names[3:0:-2]), seed=7, batch_size=1))
    assert len(set(whole.numbers)) == 5 and some.numbers == [whole.numbers[3], whole.numbers[1]]
