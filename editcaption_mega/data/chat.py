"""Pair -> tokens: the prompt with both pictures, and the instruction as the answer.

The text goes through the tokenizer's own chat template, and each `<|image_pad|>` becomes as many copies as the
picture has tokens, which is what transformers' Qwen3VLProcessor does (held together by a test).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from transformers import AutoTokenizer, PreTrainedTokenizerBase

IMAGE_PAD = "<|image_pad|>"
END_OF_TURN = "<|im_end|>"
_FIELDS = ("system", "before_source", "before_target", "request")


@dataclass(frozen=True)
class Prompt:
    """The text around the two pictures."""

    system: str
    before_source: str
    before_target: str
    request: str

    @classmethod
    def load(cls, path: str | Path | None = None) -> "Prompt":
        """Read a prompt file; None or "" is the built-in one. Raises ValueError that names the field."""
        if path:
            file = Path(path)
            if not file.is_file():
                raise ValueError(f"prompt file {path} does not exist")
            text = file.read_text(encoding="utf-8")
        else:
            text = resources.files("editcaption_mega.data").joinpath("prompt.yaml").read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        if not isinstance(values, dict) or sorted(values) != sorted(_FIELDS):
            raise ValueError(f"prompt file {path} must hold exactly these fields: {', '.join(_FIELDS)}")
        return cls(**{name: str(values[name]) for name in _FIELDS})

    def messages(self, source: Any = None, target: Any = None) -> list[dict[str, Any]]:
        """The conversation in transformers' form; source and target are put in as `image` (None: a bare slot)."""

        def picture(image: Any) -> dict[str, Any]:
            return {"type": "image"} if image is None else {"type": "image", "image": image}

        content = [
            {"type": "text", "text": self.before_source},
            picture(source),
            {"type": "text", "text": self.before_target},
            picture(target),
            {"type": "text", "text": self.request},
        ]
        system = [{"role": "system", "content": [{"type": "text", "text": self.system}]}] if self.system else []
        return [*system, {"role": "user", "content": content}]

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([getattr(self, f) for f in _FIELDS]).encode()).hexdigest()[:16]


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder. Raises ValueError that names what the folder lacks."""
    folder = Path(folder)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        raise ValueError(f"{folder} lacks a tokenizer: expected tokenizer.json, or vocab.json with merges.txt")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"the tokenizer in {folder} cannot be read: {str(error).splitlines()[0]}") from None
    for token in (IMAGE_PAD, END_OF_TURN):
        if token not in tokenizer.get_vocab():
            raise ValueError(f"the tokenizer in {folder} lacks the token {token}: expected a Qwen3-VL tokenizer")
    if not tokenizer.chat_template:
        raise ValueError(f"the tokenizer in {folder} has no chat template: expected chat_template.jinja beside it")
    return tokenizer


class ChatEncoder:
    """Turns (tokens of the source, tokens of the target, instruction) into token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Prompt):
        self.tokenizer, self.prompt = tokenizer, prompt
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        self.end_token_id = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        text = tokenizer.apply_chat_template(prompt.messages(), tokenize=False, add_generation_prompt=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        slots = [place for place, token in enumerate(ids) if token == self.image_token_id]
        if len(slots) != 2:
            raise ValueError(
                f"the chat template yields {len(slots)} {IMAGE_PAD} slots for two pictures: expected a Qwen3-VL "
                "chat template, and no such token in the prompt's own text"
            )
        self._before, self._between, self._after = ids[: slots[0]], ids[slots[0] + 1 : slots[1]], ids[slots[1] + 1 :]
        self._answer = lru_cache(maxsize=100_000)(self._encode_answer)

    @property
    def prompt_text_tokens(self) -> int:
        """Tokens of the prompt without those of the pictures."""
        return len(self._before) + len(self._between) + len(self._after)

    def prompt_ids(self, source_tokens: int, target_tokens: int) -> list[int]:
        """The prompt up to where the answer begins, pictures included."""
        image = [self.image_token_id]
        return self._before + image * source_tokens + self._between + image * target_tokens + self._after

    def answer_ids(self, instruction: str) -> tuple[int, ...]:
        """The answer and the end of the turn; this is all that is trained on."""
        return self._answer(instruction)

    def _encode_answer(self, instruction: str) -> tuple[int, ...]:
        ids = self.tokenizer(instruction.strip(), add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the instruction {instruction!r} has no token")
        return (*ids, self.end_token_id)
