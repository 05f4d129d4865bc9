import json

import pytest
from shared_data import shared_path

from editcaption_mega.data.text_checks import doubts, is_refusal

REFUSALS = """
I'm sorry, but I can't help with that.
I’m sorry, I can’t assist with this request.
I am really sorry, but as an AI I cannot see images.
Sorry, I can't do that.
Sorry!
I cannot assist with identifying people.
I can't provide an editing instruction for these pictures.
I can not process these images.
I won't describe this picture.
I'm unable to compare the images.
I am not able to view pictures.
I apologize, but the images are not available to me.
My apologies, I see one picture only.
Unfortunately, I cannot fulfil this request.
Unfortunately I'm unable to do so.
As an AI language model, I have no access to images.
As a large language model I can't see.
I don't see any images attached.
I must decline.
**I'm sorry**, but no.
"I'm sorry, I can't help .."
Your request was flagged by our content policy.
抱歉，我无法协助完成该请求。
很抱歉，我不能识别图片中的人物。
对不起，我无法查看图片。
非常抱歉
我无法提供编辑指令
無法協助您處理這張圖片
作为一个人工智能语言模型，我无法看到图片。
作为AI，我不能描述。
申し訳ありませんが、そのリクエストにはお応えできません。
죄송하지만 도와드릴 수 없습니다.
Es tut mir leid, dabei kann ich nicht helfen.
Ich kann Ihnen dabei leider nicht helfen.
Je suis désolé, je ne peux pas vous aider.
Lo siento, no puedo ayudar con eso.
Desculpe, não posso ajudar.
Mi dispiace, ma non posso aiutarti.
К сожалению, я не могу помочь.
Извините, я не могу это сделать.
عذراً، لا أستطيع المساعدة
क्षमा करें, मैं इसमें मदद नहीं कर सकता।
""".strip().splitlines()
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


@pytest.mark.parametrize("text", REFUSALS)
def test_refusals_are_known(text):
    assert is_refusal(text) and is_refusal("  " + text.upper())


@pytest.mark.parametrize("text", INSTRUCTIONS)
def test_instructions_are_neither_refused_nor_doubted(text):
    assert not is_refusal(text) and doubts(text) == []


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
        ("???", "no letter or digit"),
        ("blue " * 800, "mostly repetitions"),
        ("Make it blue. " * 12, "mostly repetitions"),
        ("把天空变成蓝色。" * 30, "mostly repetitions"),
        ("a" * 60, "mostly repetitions"),
        ("Make it\x1b[31m blue", "control characters"),
    ],
)
def test_doubts(text, doubt):
    assert doubts(text) == [doubt] and not is_refusal(text)


def test_of_the_real_instructions_those_with_placeholders_are_doubted():
    manifest = json.loads((shared_path("real_pairs") / "manifest.json").read_text(encoding="utf-8"))
    texts = [pair["instruction"] for pair in manifest["pairs"] if pair["instruction"]]
    assert len(texts) == 21 and not any(is_refusal(text) for text in texts)
    assert {text for text in texts if doubts(text)} == {text for text in texts if "[v*]" in text}
