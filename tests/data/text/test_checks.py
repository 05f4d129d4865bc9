import json
import time

import pytest

from editcaption_mega.data.text.checks import doubts
from tests.helpers.shared_data import shared_path

INSTRUCTIONS = """
Add a red hat to the cat.
Add a sign that says "I'm sorry, I can't help" to the door.
I can't see her face: make it brighter.
I want the sky to be orange.
I would like a dog instead of the cat.
As an old man, redraw the boy.
Sorrywort flowers should grow along the path.
Can you make it look like winter?
We cannot have people here, so take them away.
Do not change anything but the colour of the car.
Don't keep the tree.
This image should look like a watercolour.
The content of the bowl becomes rice.
Make the sorry-looking dog happy.
把天空变成橙色。
给猫戴上一顶红色的帽子。
不能看到的部分变暗一些。
作为背景加入一座山。
Ich möchte einen blauen Himmel.
Ajoute un chapeau rouge au chat.
Añade un sombrero rojo al gato.
猫に赤い帽子をかぶせる。
Turn the picture into a pencil sketch, keep the outlines of the house, the two windows on its left side, the door
Replace the text "SALE" with "SOLD" & make it 50% larger (bold).
Zoom in 2x; pan to the right; then zoom in 2x again.
""".strip().splitlines()


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_instructions_are_not_doubted(text):
    assert doubts(text) == []


@pytest.mark.parametrize(
    ("text", "doubt"),
    [
        ("a photo of [v*]", "a placeholder"),
        ("Make {object} blue", "a placeholder"),
        ("turn sks into a cat", "a placeholder"),
        ("None", "a placeholder"),
        ("N/A", "a placeholder"),
        ("nan", "a placeholder"),
        ("<image> Make it blue", "a placeholder"),
        ("<p>Make it <b>blue</b></p>", "HTML"),
        ("Make it blue &amp; green", "HTML"),
        ("blue " * 800, "mostly repetitions"),
        ("Make it blue. " * 12, "mostly repetitions"),
        ("把天空变成蓝色。" * 30, "mostly repetitions"),
        ("a" * 60, "mostly repetitions"),
        ("Make it\x9b31m blue", "control characters"),
        ('"Sorry, we\'re closed" is written on the door.', "words that refusals begin with"),
    ],
)
def test_doubts(text, doubt):
    assert doubts(text) == [doubt]


PIECES = [
    "[insert ", "[your", "{{ ", "{", "{a ", "<a ", "</p", "<", "&a", "&amp", "${", "none", "n/a.", "\u00a0", ".", "a",
    "no change ", "[v", "<image", "sks", "lorem ", "i am sorry ", "i cannot ", "'", "due to a ", "ich kann a ", "\x9b",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_any_text_is_read_in_one_pass(piece):
    text = piece * (60_000 // len(piece))
    began = time.process_time()
    doubts(text)
    assert time.process_time() - began < 2


def test_of_the_real_instructions_those_with_placeholders_are_doubted():
    manifest = json.loads((shared_path("real_pairs") / "manifest.json").read_text(encoding="utf-8"))
    texts = [pair["instruction"] for pair in manifest["pairs"] if pair["instruction"]]
    assert len(texts) == 21
    assert {text for text in texts if doubts(text)} == {text for text in texts if "[v*]" in text}
