"""Every ending, every shape of a thought, every engine: an answer with words, or a reason; nothing else."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.inference.endpoint.answer import as_instruction, is_open, read_answer, read_choice

THOUGHT = "First the dress is grey, then pink."
ANSWER = "Make the dress pink."

ENDINGS = [  # the engine's word, what becomes of a text, what becomes of none
    ("stop", "ok", "malformed"),
    ("STOP", "ok", "malformed"),
    ("end_turn", "ok", "malformed"),
    ("eos_token", "ok", "malformed"),
    ("FinishReason.STOP", "ok", "malformed"),
    ({"type": "stop", "matched": 151645}, "ok", "malformed"),
    ("length", "truncated", "malformed"),
    ("MAX_TOKENS", "truncated", "malformed"),
    ("model_context_window_exceeded", "truncated", "malformed"),
    ("content_filter", "refused", "refused"),
    ("SAFETY", "refused", "refused"),
    ("IMAGE_SAFETY", "refused", "refused"),
    ("refusal", "refused", "refused"),
    ("tool_calls", "malformed", "malformed"),
    ("MALFORMED_FUNCTION_CALL", "malformed", "malformed"),
    ("error", "failed", "failed"),
    ("abort", "failed", "failed"),
    (None, "ok", "malformed"),
    ("", "ok", "malformed"),
    ("FINISH_REASON_UNSPECIFIED", "ok", "malformed"),
    ("ERROR_TOXIC", "refused", "refused"),
    ("ERROR_LIMIT", "failed", "failed"),
    ("USER_CANCEL", "failed", "failed"),
    ("OTHER", "failed", "failed"),
    ("LANGUAGE", "failed", "failed"),
    ("IMAGE_OTHER", "failed", "failed"),
    ("pause_turn", "failed", "failed"),
    ("a word of tomorrow", "failed", "failed"),
    (17, "failed", "failed"),
    (["stop"], "failed", "failed"),
    (True, "failed", "failed"),
]


@pytest.mark.parametrize("ending, of_text, of_none", ENDINGS, ids=[repr(one[0])[:30] for one in ENDINGS])
def test_every_ending_of_every_engine(ending, of_text, of_none):
    """Endpoints hand over a choice, generation in process and vLLM a text; both read alike."""
    for text, expected in ((ANSWER, of_text), (f"<think>{THOUGHT}</think>\n\n{ANSWER}", of_text), ("", of_none)):
        engine, endpoint = (
            read_answer(text, ending),
            read_choice({"finish_reason": ending, "message": {"content": text}}),
        )
        assert engine == endpoint and engine.status == expected, engine
        assert engine.text == (ANSWER if expected in ("ok", "truncated") else "")
        assert bool(engine.reason) == (expected != "ok")
        assert engine.finished is {"ok": engine.finished, "truncated": False}.get(expected, engine.finished)
    if of_text == "ok":
        whole = str(ending).lower().endswith(("stop", "end_turn", "eos_token")) or isinstance(ending, dict)
        assert read_answer(ANSWER, ending).finished is (True if whole else None)
    missing = read_choice({"message": {"content": ANSWER}})
    assert (missing.status, missing.finished, missing.ending) == ("ok", None, "")


@pytest.mark.parametrize(
    "text, thought, answer",
    [
        (f"<think>{THOUGHT}</think>{ANSWER}", THOUGHT, ANSWER),
        (f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}", THOUGHT, ANSWER),
        (f"{THOUGHT}</think>{ANSWER}", THOUGHT, ANSWER),  # the template opened it
        (f"<think></think>{ANSWER}", "", ANSWER),
        (f"<THINK>{THOUGHT}< /think >{ANSWER}", THOUGHT, ANSWER),
        (f"<think>I would write <think>x</think> .. {THOUGHT}</think>{ANSWER}", None, ANSWER),  # the last one counts
        (f"<thinking>{THOUGHT}</thinking>{ANSWER}", THOUGHT, ANSWER),
        (f"<seed:think>{THOUGHT}</seed:think>{ANSWER}", THOUGHT, ANSWER),
        (f"[THINK]{THOUGHT}[/THINK]{ANSWER}", THOUGHT, ANSWER),
        (f"◁think▷{THOUGHT}◁/think▷{ANSWER}", THOUGHT, ANSWER),
        (f"<|channel|>analysis<|message|>{THOUGHT}<|channel|>final<|message|>{ANSWER}<|return|>", None, ANSWER),
        (f"{ANSWER}<|im_end|>\n<|endoftext|> ", "", ANSWER),
        (f"<thoughts>{THOUGHT}</thoughts>{ANSWER}", THOUGHT, ANSWER),
        (f"<reflection>{THOUGHT}</reflection>{ANSWER}", THOUGHT, ANSWER),
        (f"<scratchpad>\n{THOUGHT}\n</scratchpad>\n{ANSWER}", THOUGHT, ANSWER),
        (f"<|think|>{THOUGHT}<|/think|>{ANSWER}", THOUGHT, ANSWER),
        (f"<|START_THINKING|>{THOUGHT}<|END_THINKING|><|START_RESPONSE|>{ANSWER}<|END_RESPONSE|>", THOUGHT, ANSWER),
        (f"<unused94>thought\n{THOUGHT}<unused95>{ANSWER}", None, ANSWER),
        (f"<think>\n{THOUGHT}\n</think>\n<answer>\n{ANSWER}\n</answer>", THOUGHT, ANSWER),
        (f"<answer>{ANSWER}", "", ANSWER),
        (f"analysis{THOUGHT}assistantfinal{ANSWER}", THOUGHT, ANSWER),
        (f"analysis{THOUGHT}", None, None),
        (f"<scratchpad>{THOUGHT}", THOUGHT, None),
        (f"<unused94>{THOUGHT}", THOUGHT, None),
        (f"<|im_start|>assistant\n{ANSWER}", "", ANSWER),
        (f"<|start_header_id|>assistant<|end_header_id|>\n\n{ANSWER}<|eot_id|>", "", ANSWER),
        (f"<start_of_turn>model\n{ANSWER}<end_of_turn>\n", "", ANSWER),
        (f"<s> {ANSWER}</s>", "", ANSWER),
        (f"<｜Assistant｜>{ANSWER}<｜end▁of▁sentence｜>", "", ANSWER),
        (f"<think>{THOUGHT}", THOUGHT, None),
        (f"<think>a</think>b<think>{THOUGHT}", None, None),
        (f"{ANSWER} <think>{THOUGHT}", THOUGHT, None),
        (f"<think>{THOUGHT}</think>", THOUGHT, None),
        (f"<think>{THOUGHT}</think> \n<|im_end|>", THOUGHT, None),
        ("", "", None),
        (" \n\t", "", None),
        ("\u200b\ufeff\u2060 \x00", "", None),
        ("<|im_end|>", "", None),
        ("<|vision_start|> <|im_start|>", "", None),
        *(
            (nothing, "", None)
            for nothing in (
                "</s>",
                "<eos>",
                "<pad><pad>",
                "<end_of_turn>",
                "[/INST]",
                "<|im_start|>assistant\n",
                "<answer></answer>",
                "\u3164",
                "\u2800",
                "\u0301",
                "\ufe0f",
                '""',
                "{}",
                "[]",
                "```\n```",
                "```json\n```",
                "...",
                "\u2026",
                "-",
                "None",
                "null",
                "N/A",
                "**None**",
                "<html><body>502 Bad Gateway</body></html>",
            )
        ),
        ("half \ud83d", "", None),
        (None, "", None),
        (["text"], "", None),
    ],
)
@pytest.mark.parametrize("ending", ["stop", "length", None])
def test_every_shape_of_a_thought(text, thought, answer, ending):
    found = read_answer(text, ending)
    assert found.text == (answer or "") and (found.status in ("ok", "truncated")) == (answer is not None), found
    assert found.status == ("malformed" if answer is None else "truncated" if ending == "length" else "ok")
    if thought is not None:
        assert found.thought == thought
    assert THOUGHT not in found.text
    if answer is None and "half" not in str(text):
        assert ("raise max_tokens" in found.reason) == (ending == "length") == (not found.may_pass)


def test_a_thought_that_the_prompt_opened_ends_with_its_mark_or_never():
    assert is_open("<|im_start|>assistant\n<think>\n") and not is_open("assistant\n<think>\n\n</think>\n\n")
    cut = read_answer(THOUGHT, "length", prompt_end="<|im_start|>assistant\n<think>\n")
    assert (cut.status, cut.text, cut.thought) == ("malformed", "", THOUGHT) and "never ends" in cut.reason
    whole = read_answer(f"{THOUGHT}</think>{ANSWER}", "stop", prompt_end="assistant\n<think>\n")
    assert (whole.text, whole.thought) == (ANSWER, THOUGHT)


@pytest.mark.parametrize(
    "text, thought, answer",
    [
        ("Fine: 5. It says </think> 1", "", "Fine: 5. It says </think> 1"),
        ("It says <think> 1. So 5", "", "It says <think> 1. So 5"),
        (" <think>Hm.</think> 5. It says </think> 1", "Hm.", "5. It says </think> 1"),
        ("<think>It says <think>x</think>5", "It says x", "5"),
        ("<think>5", "5", None),
    ],
)
def test_a_mark_in_a_quotation_cuts_nothing(text, thought, answer):
    """At 75cd668 an instruction with a mark of thoughts took the verdict from a judge that quotes it."""
    found = read_choice({"message": {"content": text}}, quotes=True)
    assert (found.text, found.thought) == (answer or "", thought), found
    assert found.status == ("ok" if answer else "malformed")
    if answer:
        opened = read_answer(f"Hm.</think>{answer}", "stop", prompt_end="<think>", quotes=True)
        assert (opened.text, opened.thought) == (answer, "Hm.")


@pytest.mark.parametrize(
    "message, status, text, thought",
    [
        ({"content": None, "reasoning_content": THOUGHT}, "malformed", "", THOUGHT),
        ({"reasoning": THOUGHT}, "malformed", "", THOUGHT),
        ({"content": ANSWER, "reasoning_content": THOUGHT, "reasoning": THOUGHT}, "ok", ANSWER, THOUGHT),
        ({"content": ANSWER, "reasoning": None}, "ok", ANSWER, ""),
        ({"content": [{"type": "reasoning", "text": THOUGHT}]}, "malformed", "", THOUGHT),
        ({"content": [{"type": "thinking", "thinking": THOUGHT}, {"text": ANSWER}]}, "ok", ANSWER, THOUGHT),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}, ANSWER]},
            "ok", ANSWER, THOUGHT,
        ),
        ({"content": [{"type": "image", "text": ANSWER}]}, "malformed", "", ""),
        ({"content": ANSWER, "refusal": ""}, "ok", ANSWER, ""),
        ({"content": ANSWER, "refusal": "I can't."}, "refused", "", ""),
        ({"content": [{"type": "refusal", "refusal": "no"}]}, "refused", "", ""),
        ({"content": [{"type": "text", "text": ANSWER}, {"type": "refusal"}]}, "refused", "", ""),
        ({"content": {"text": ANSWER}}, "malformed", "", ""),
        ({"content": None, "tool_calls": [{"function": {}}]}, "malformed", "", ""),
        ({"content": ANSWER, "reasoning_content": [{"text": THOUGHT}, {"text": 3}, 4]}, "ok", ANSWER, THOUGHT),
        ({}, "malformed", "", ""),
        (None, "malformed", "", ""),
        ("text", "malformed", "", ""),
    ],
)  # fmt: skip
def test_every_form_of_a_message(message, status, text, thought):
    found = read_choice({"finish_reason": "stop", "message": message})
    assert (found.status, found.text, found.thought) == (status, text, thought), found
    assert "tool" in found.reason or not (isinstance(message, dict) and message.get("tool_calls"))


@pytest.mark.parametrize(
    "text, status, reason",
    [
        ("I'm sorry, I can't help with that.", "refused", "I'm sorry, I can't help with that."),
        (f"{ANSWER}<|im_end|>\n<|im_start|>user\nThanks!", "malformed", "the text goes on after <|im_start|>user"),
        (f"{ANSWER} <|im_end|><|box_start|> x", "ok", ""),
        ("\ufffd\ufffd", "ok", ""),
        (f"Sure: <answer>{ANSWER}</answer>", "malformed", "the text goes on after <answer>"),
        ("Add 5 hats. 添加帽子。", "ok", ""),
        ("5", "ok", ""),
    ],
)
def test_what_is_no_instruction_although_it_has_words(text, status, reason):
    answer = read_answer(text, "stop")
    assert answer.status == "ok", "a judge's reply may hold such words"
    found = as_instruction(answer)
    assert found.status == status and found.reason.startswith(reason) and bool(found.text) == (status == "ok")
    assert as_instruction(found) == found


MARKS = ["<think>", "</think>", "< / Thinking >", "[THINK]", "[/THINK]", "<|channel|>final<|message|>", "<|im_end|>"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "type", "content"]), inner),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(
    pieces=st.lists(st.sampled_from(MARKS) | st.text(st.characters(), max_size=6), max_size=8),
    ending=st.sampled_from([one[0] for one in ENDINGS]) | JSON,
    message=st.dictionaries(st.sampled_from(["content", "reasoning", "refusal", "tool_calls"]), JSON, max_size=3),
)
def test_an_answer_has_words_and_what_is_none_has_a_reason(pieces, ending, message):
    text = "".join(pieces)
    choices = [{"message": {"content": text}, "finish_reason": ending}, {"message": message, "finish_reason": ending}]
    for found in (read_answer(text, ending), *map(read_choice, choices)):
        assert (found.status in ("ok", "truncated")) == bool(found.text) and (found.status == "ok") != bool(
            found.reason
        )
        found.text.encode()
        found.thought.encode()
        if found.text:
            assert found.text == found.text.strip() and not is_open(found.text) and "</think>" not in found.text


def test_a_long_text_is_read_once():
    """200,000 characters of marks and blanks: patterns that go back and forth would take minutes."""
    for piece in (
        "<think>",
        "</think>",
        "<|im_end|>",
        " ",
        "<",
        "< / think ",
        "<|",
        "[THINK]",
        "<s>",
        "a:",
        "<| ",
        "analysis",
        "<|im_start|> ",
    ):
        read_answer(piece * (200_000 // len(piece)), "stop")
