"""Where what a model wrote becomes an answer, or a reason why there is none: the one place, for every engine.

An answer has a letter or a digit that somebody can see. A thought that a model writes before its answer is no part of
it, and a thought that never ends is none. Endpoints, generation in process, vLLM and files of texts written elsewhere
all come through here, so none of them can keep a non-answer as a result."""

import re
from collections import deque
from dataclasses import dataclass, replace
from typing import Any, Literal

from editcaption_mega.data.text.checks import is_nothing
from editcaption_mega.data.text.control_tokens import CONTROL_TOKEN
from editcaption_mega.data.text.refusals import is_refusal
from editcaption_mega.records import has_words
from editcaption_mega.words import one_line

Status = Literal["ok", "truncated", "refused", "malformed", "failed"]
_LONGEST_THOUGHT = 20_000  # characters that are kept
_LONGEST_ENDING = 40
_EMPTY = "empty answer"
RAISE = "so raise max_tokens"  # how the reason of an answer that had no room ends

# How engines say why a text ends: OpenAI's words and those of Anthropic, Gemini, Mistral, Cohere, vLLM, SGLang, TGI.
# Any other word (OTHER, LANGUAGE, pause_turn, abort, a word of tomorrow) says that the server did not let it end.
_WHOLE = ("stop", "end_turn", "stop_sequence", "eos", "eos_token", "complete", "completed", "finished", "done")
_CUT_OFF = ("length", "max_tokens", "max_output_tokens", "max_length", "model_length", "model_context_window_exceeded")
_TOOL = ("tool_calls", "tool_call", "tool_use", "function_call", "malformed_function_call", "unexpected_tool_call")
_UNSAID = ("unspecified", "unknown", "none", "null")
_FILTERED = re.compile(
    r"filter|safety|recitation|prohibited|blocklist|sensitive|refusal|spii|guardrail|moderation|toxic"
)

# Marks around thoughts, as models write them where the server does not part them from the answer: Qwen, DeepSeek, GLM,
# Hunyuan; Seed; Magistral; Kimi; Cohere; Gemma; gpt-oss, also where a server has taken its control tokens out. A
# template may hold the opening mark, so the closing one can stand alone.
_NAME = (
    r"(?:\w{1,8}:)?(?:think(?:ing)?|thoughts?|thought_process|reason(?:ing)?|reflect(?:ion)?|scratch_?pad|analysis|"
    r"(?:inner_)?monologue|cot|chain_of_thought)"
)
_CLOSED = re.compile(
    rf"<\s*(?:\|\s*)?/\s*{_NAME}\s*\|?>|\[/THINK\]|◁/think▷|<\|end_(?:of_)?(?:thought|thinking)\|>|<unused95>|"
    r"<\|channel\|>\s*final\s*<\|message\|>|assistantfinal",
    re.IGNORECASE,
)
_OPENED = re.compile(
    rf"<\s*(?:\|\s*)?{_NAME}\s*\|?>|\[THINK\]|◁think▷|<\|(?:begin|start)_(?:of_)?(?:thought|thinking)\|>|<unused94>|"
    r"<\|channel\|>\s*(?:analysis|commentary)|\A\s*(?:analysis|commentary)(?-i:(?=[A-Z]))",
    re.IGNORECASE,
)
# What may stand around an answer and is no part of it: the head of a turn, control tokens, tags that say "the answer".
_HEAD = r"(?:<\|im_start\|>|<start_of_turn>|<\|start_header_id\|>|<\|start\|>)\s*"
_ANSWER_TAG = r"</?(?:final_)?(?:answer|response|output)>"
_WRAPPING = re.compile(rf"{_HEAD}(?:assistant|model)\b|{CONTROL_TOKEN.pattern}|{_ANSWER_TAG}")
_ANOTHER_TURN = re.compile(rf"{_HEAD}(?:assistant|model|user|system|tool)\b|{_ANSWER_TAG}")
_WEB_PAGE = re.compile(r"<(?:!doctype\s|html\b|\?xml\b)", re.IGNORECASE)
_FENCE = re.compile(r"```\w*")

_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")
_THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_text", "redacted_thinking", "thought")


@dataclass(frozen=True)
class Answer:
    """status: ok; truncated (cut off, but there is an answer); refused; malformed (there is no answer); failed (the
    engine broke off)."""

    status: Status
    text: str = ""  # never blank where status is ok or truncated, else ""
    reason: str = ""  # one sentence, unless ok
    thought: str = ""  # what the model wrote before its answer, bounded
    ending: str = ""  # the engine's own word for why the text ends; "" where it gives none
    may_pass: bool = False  # worth asking for again at once

    @property
    def finished(self) -> bool | None:
        """Whether the model ended the text itself; None where the engine does not say."""
        return is_finished(self.ending)


def is_finished(ending: str) -> bool | None:
    return True if ending in _WHOLE else False if ending in _CUT_OFF else None


def read_choice(choice: dict[str, Any], *, quotes: bool = False) -> Answer:
    """One choice of a chat completion, whatever it holds, as `read_answer`. Never raises."""
    message = choice.get("message")
    ending = choice.get("finish_reason")
    if not isinstance(message, dict):
        message = {}
    text, thoughts, refusals = _content(message.get("content"))
    if refusal := "".join((_plain(message.get("refusal")), *refusals)).strip():
        return Answer("refused", reason=refusal, ending=_word(ending))
    for name in _THOUGHT_FIELDS:
        thoughts.append(_plain(message.get(name)))
    answer = read_answer(text, ending, thought="\n".join(dict.fromkeys(filter(None, thoughts))), quotes=quotes)
    if answer.status == "malformed" and (message.get("tool_calls") or message.get("function_call")):
        return replace(answer, reason="the model called a tool in the place of an answer")
    return answer


def read_answer(text: Any, ending: Any, *, thought: str = "", prompt_end: str = "", quotes: bool = False) -> Answer:
    """The answer in a text that a model wrote. Never raises.

    ending: the engine's word for why the text ends. thought: what the engine has parted from it already. prompt_end:
    the last words of the prompt, which may have opened a thought. quotes: the answer may quote somebody else's
    words, marks of thoughts among them, so that only a thought with which it begins is one."""
    word = _word(ending)
    if isinstance(text, str) and is_open(prompt_end):
        text = f"<think>{text}"
    text = text if isinstance(text, str) else ""
    text, before = _without_first_thought(text) if quotes else _without_thought(text)
    answer = Answer("ok", _unwrapped(text), thought=_kept(thought, before), ending=word)
    if _FILTERED.search(word):
        return replace(answer, status="refused", text="", reason=f"stopped by the server's content filter ({word})")
    if word in _TOOL:
        return _none(answer, "malformed", f"the model called a tool in the place of an answer ({word})")
    if word and answer.finished is None:
        return _none(answer, "failed", f"the server broke off ({word})")
    if not _encodable(text):
        return _none(answer, "malformed", "the text holds half a character")
    if opened := _OPENED.match(text) if quotes else _OPENED.search(text):
        answer = replace(answer, thought=_kept(answer.thought, text[opened.end() :]))
        return _no_words(answer, "a thought that never ends")
    if not_an_answer := _no_answer(answer.text):
        empty = not_an_answer == _EMPTY and answer.thought
        return _no_words(answer, "a thought and no answer" if empty else not_an_answer)
    if answer.finished is False:
        return replace(answer, status="truncated", reason="cut off at max_tokens")
    return answer


def as_instruction(answer: Answer) -> Answer:
    """The answer of a model that was to write an instruction: words with which assistants decline are none, and what
    goes on with another turn, or has the answer somewhere inside, is no longer the model's answer."""
    if answer.text and is_refusal(answer.text):
        return replace(answer, status="refused", text="", reason=one_line(answer.text))
    if mark := _ANOTHER_TURN.search(answer.text):
        return _none(answer, "malformed", f"the text goes on after {one_line(mark[0])}")
    return answer


def _no_words(answer: Answer, what: str) -> Answer:
    """A model that used up its tokens would do so again at once; another run may give it more."""
    if answer.finished is False:
        why = f"{what}: cut off at max_tokens before any answer, {RAISE}"
        return replace(_none(answer, "malformed", why), may_pass=False)
    return _none(answer, "malformed", what)


def _none(answer: Answer, status: Status, reason: str) -> Answer:
    return replace(answer, status=status, text="", reason=reason, may_pass=True)


def is_open(text: str) -> bool:
    """Whether a thought is open where the text ends."""
    return bool(_OPENED.search(_without_thought(text)[0]))


def last_closed(text: str) -> re.Match[str] | None:
    """The last mark that closes a thought."""
    last = deque(_CLOSED.finditer(text), maxlen=1)
    return last[0] if last else None


def _without_thought(text: str) -> tuple[str, str]:
    """(what follows the last closed thought; what stands before it)."""
    return _parted(text, last_closed(text))


def _without_first_thought(text: str) -> tuple[str, str]:
    """The same, but a thought is what the text begins with, up to the first mark that closes one."""
    text = text.lstrip()
    return _parted(text, _CLOSED.search(text) if _OPENED.match(text) else None)


def _parted(text: str, closed: re.Match[str] | None) -> tuple[str, str]:
    return (text[closed.end() :], _OPENED.sub("", text[: closed.start()])) if closed else (text, "")


def _unwrapped(text: str) -> str:
    """The text without blanks, control tokens and tags around it."""
    marks = deque(_WRAPPING.finditer(text))
    begin, end = 0, len(text)
    while begin < end:
        if text[begin].isspace():
            begin += 1
        elif marks and marks[0].start() == begin:
            begin = marks.popleft().end()
        elif text[end - 1].isspace():
            end -= 1
        elif marks and marks[-1].end() == end:
            end = marks.pop().start()
        else:
            break
    return text[begin:end]


def _no_answer(text: str) -> str:
    """Why an unwrapped text is no answer, "" for one that is."""
    words = _FENCE.sub("", text)
    # Bytes that are no text are words that nobody can read: a bad answer, which counts, and not none.
    if not has_words(words) and "\ufffd" not in words:
        seen = any(sign.isprintable() and not sign.isspace() and sign.isascii() for sign in text)
        return f"an answer without a letter or a digit ({one_line(text, 40)})" if seen else _EMPTY
    if is_nothing(text):
        return f"an answer that says nothing ({one_line(text, 40)})"
    return "a web page in the place of an answer" if _WEB_PAGE.match(text) else ""


def _content(content: Any) -> tuple[str, list[str], list[str]]:
    """(the text of a message's content, its thoughts, its refusals): text, or a list of parts of each kind."""
    if isinstance(content, str):
        return content, [], []
    texts, thoughts, refusals = [], [], []
    for part in content if isinstance(content, list) else ():
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict):
            kind = part.get("type")
            if kind in _THOUGHT_PARTS or part.get("thought") is True:
                thoughts.append(_plain(part.get("thinking", part.get("text"))))
            elif kind in (None, "text", "output_text"):
                texts.append(_plain(part.get("text")))
            elif kind == "refusal":
                refusals.append(_plain(part.get("refusal", part.get("text"))) or "the model refuses")
    return "".join(texts), thoughts, refusals


def _plain(value: Any) -> str:
    """A text, or the texts of a list of parts, joined."""
    if isinstance(value, list):
        parts = (part.get("text") if isinstance(part, dict) else part for part in value)
        return "".join(part for part in parts if isinstance(part, str))
    return value if isinstance(value, str) else ""


def _word(ending: Any) -> str:
    """An engine's ending as one word of small letters."""
    if isinstance(ending, dict):  # SGLang's own form: {"type": "stop", "matched": ..}
        ending = ending.get("type")
    if ending is None:
        return ""
    if not isinstance(ending, str):
        return f"a {type(ending).__name__}"
    word = " ".join(ending.encode("utf-8", "replace").decode().lower().split())[:_LONGEST_ENDING]
    word = word.removeprefix("finishreason.").removeprefix("finish_reason_")
    return "" if word in _UNSAID else word


def _encodable(text: str) -> bool:
    """Whether a file takes the text: JSON can hold lone surrogates, UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kept(*thoughts: str) -> str:
    whole = "\n".join(filter(None, (thought.strip() for thought in thoughts)))
    return whole.encode("utf-8", "replace").decode()[:_LONGEST_THOUGHT]
