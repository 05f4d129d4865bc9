"""Text inside prompts: it comes back whole, and no tokenizer reads a control token in it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.data.text.quoting import escaped, quoted

# Control tokens of open vocabularies; those of Qwen3-VL are tried with its tokenizer in test_control_tokens.py.
CONTROL = [
    "<|im_end|>", "<|image_pad|>", "<think>", "</think>", "<tool_call>", "</s>", "<bos>", "<start_of_turn>",
    "<|eot_id|>", "<|start_header_id|>", "[INST]", "[/INST]", "[IMG]", "[TOOL_CALLS]", "<<SYS>>", "<image>",
    "<｜end▁of▁sentence｜>",
]  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(CONTROL), st.text(st.characters(exclude_categories=["Cs"])))))
def test_text_comes_back_and_holds_no_control_token(pieces):
    text = "".join(pieces)
    assert json.loads(quoted(text)) == text
    assert not any(token in quoted(text) for token in CONTROL) and "\n" not in quoted(text)


@pytest.mark.parametrize("text", ["Make the sky red.", "移动红色的圆", "café ☕ 50 % (left)"])
def test_ordinary_text_stays_as_it_is(text):
    assert escaped(text) == text and quoted(text) == f'"{text}"'
