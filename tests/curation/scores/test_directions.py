"""Turning the directions of an instruction: only what is a direction, and everything that is one."""

import pytest

from editcaption_mega.curation.scores.directions import opposite
from editcaption_mega.data.synthetic.edits import CAMERA_ACTIONS
from editcaption_mega.data.synthetic.phrasing import every_facts, parse, phrase_each

TURNED = [
    ("Move the cup to the left of the plate.", "Move the cup to the right of the plate."),
    ("Zoom in on the dog and pan up", "Zoom out on the dog and pan down"),
    ("Pull the camera back out, then tilt DOWN", "Pull the camera back in, then tilt UP"),
    ("Flip the picture horizontally", "Flip the picture vertically"),
    ("Rotate it anti-clockwise", "Rotate it clockwise"),
    ("Put a hat above the upper shelf, in front of the books", "Put a hat below the lower shelf, behind the books"),
    ("把猫移到左边", "把猫移到右边"),
    ("镜头拉近,向上平移", "镜头拉远,向下平移"),
    ("水平翻转图片", "垂直翻转图片"),
]
NO_DIRECTION = [
    "Make the car red", "Clean up the desk and tone down the colors", "Turn the bottle upside down",
    "Put a cup in the box and take the pen out", "The candle is left as it is", "把桌上的苹果换成梨", "给他戴上帽子",
    "Add a close-up of the flower", "Set it up in the style of an old photo",
]  # fmt: skip


@pytest.mark.parametrize("text, turned", TURNED)
def test_directions_are_turned(text, turned):
    assert opposite(text) == turned


@pytest.mark.parametrize("text", NO_DIRECTION)
def test_other_words_stay(text):
    assert opposite(text) is None


def test_turning_twice_gives_the_text_of_the_synthetic_world():
    cameras = 0
    for facts in every_facts():
        for text in phrase_each(facts):
            turned = opposite(text)
            if turned is not None:
                assert opposite(turned) == text
            if facts["action"] in CAMERA_ACTIONS:
                cameras += 1
                assert turned is not None and parse(turned) and parse(turned) != parse(text), text
    assert cameras > 20
