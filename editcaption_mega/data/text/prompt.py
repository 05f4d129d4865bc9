"""Pair -> tokens: the prompt with both pictures, and the instruction as the answer.

The text goes through the tokenizer's own chat template, and each `<|image_pad|>` becomes as many copies as the
picture has tokens, which is what transformers' Qwen3VLProcessor does (held together by a test).
"""

import hashlib
import json
import re
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from editcaption_mega.words import printable

from .control_tokens import CONTROL_TOKEN
from .side_files import CONFIG, SideFiles
from .tokens import TextEncoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IMAGE_PAD = "<|image_pad|>"
END_OF_TURN = "<|im_end|>"
_FIELDS = ("system", "before_source", "before_target", "request")
# What some model reads as a control token, and what no text holds. A server's tokenizer is not at hand; in process, the
# tokenizer's own list is tried as well.
_CONTROL = re.compile(
    rf"{CONTROL_TOKEN.pattern}|<\|[^<>|]*\|>|</?(?:think|tool_call|tool_response)>|[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)
# Put behind a template whose generation prompt opens a thought; the rest is how Qwen's own templates show an answer
# without one.
_CLOSE_THOUGHT = "{%- if add_generation_prompt %}{{- '\\n</think>\\n\\n' }}{%- endif %}"


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key that stands there twice is an error, not the last one's."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"`{twice[0]}` stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


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
        else:
            file = resources.files("editcaption_mega.data.text").joinpath("prompt.yaml")
        try:
            values = yaml.load(file.read_bytes(), _UniqueKeys)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"prompt file {path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict) or set(values) != set(_FIELDS):
            raise ValueError(f"prompt file {path} must hold exactly these fields: {', '.join(_FIELDS)}")
        for name, value in values.items():
            if value is not None and not isinstance(value, str):
                raise ValueError(
                    f"prompt file {path}: `{name}` is {value!r}, expected text (put it in quotation marks)"
                )
            control = _CONTROL.search(value or "")
            if control:
                raise ValueError(
                    f"prompt file {path}: `{name}` holds {printable(control[0])}, which models read as a control "
                    "token: write the text without it"
                )
        return cls(**{name: values[name] or "" for name in _FIELDS})

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


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """The tokenizer of a Hugging Face folder, with the chat template that transformers' processor would take.

    A template that opens a thought where the answer begins closes it again. Raises ValueError that names what the
    folder lacks, and for a tokenizer with more tokens than the model of its config.json."""
    from transformers import AutoTokenizer  # it brings PyTorch, for which a prompt alone need not wait

    files = SideFiles.read(folder)
    if not any(name in files.contents for name in ("tokenizer.json", "vocab.json")):
        raise ValueError(f"{folder} lacks a tokenizer: expected tokenizer.json, or vocab.json with merges.txt")
    files.json("tokenizer_config.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(files.folder, trust_remote_code=False, local_files_only=True)
        tokenizer.decode(TextEncoder(tokenizer).with_control_tokens(END_OF_TURN))  # some types are only missed in use
    except Exception as error:  # the tokenizers library raises bare Exception, and any type for a field of another type
        raise ValueError(f"the tokenizer in {folder} cannot be read: {' '.join(str(error).split())}") from None
    vocabulary = tokenizer.get_vocab()
    for token in (IMAGE_PAD, END_OF_TURN):
        if token not in vocabulary:
            raise ValueError(f"the tokenizer in {folder} lacks the token {token}: expected a Qwen3-VL tokenizer")
    templates = files.chat_templates()
    if not templates:
        raise ValueError(f"the tokenizer in {folder} has no chat template: expected chat_template.jinja beside it")
    tokenizer.chat_template = next(iter(templates.values()))
    _close_thought(tokenizer, f"{folder}/{next(iter(templates))}")
    _check_model(files, max(vocabulary.values()), vocabulary[IMAGE_PAD])
    return tokenizer


def folder_notes(folder: str | Path, tokenizer: "PreTrainedTokenizerBase") -> list[str]:
    """What a user should know of how the folder is read: one sentence each."""
    files = SideFiles.read(folder)
    name, template = next(iter(files.chat_templates().items()))
    notes = files.differences()
    if tokenizer.chat_template != template:
        notes.append(
            f"{folder}/{name} opens a thought (<think>) where the answer begins: it is closed in the prompt, in the "
            "checkpoints' template too"
        )
    return notes


def trained_side_files(files: SideFiles, tokenizer: "PreTrainedTokenizerBase") -> SideFiles:
    """The side files of a model that was trained with this tokenizer: the one template in every place that has one,
    and the end of turn among the tokens that end an answer."""
    return files.with_chat_template(tokenizer.chat_template).with_end(tokenizer.convert_tokens_to_ids(END_OF_TURN))


def _render(
    tokenizer: "PreTrainedTokenizerBase", messages: list[dict[str, Any]], where: str, *, generation: bool = True
) -> str:
    try:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation)
    except Exception as error:  # a template is a program of the folder's own
        raise ValueError(
            f"{where}: the chat template cannot be applied ({' '.join(str(error).split())}): expected Qwen3-VL's"
        ) from None
    return text


def _close_thought(tokenizer: "PreTrainedTokenizerBase", where: str) -> None:
    """Have the template close the thought that its generation prompt opens: an instruction is no thought."""

    def opens() -> bool:
        question = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
        asked, begun = (_render(tokenizer, question, where, generation=answer) for answer in (False, True))
        if asked == begun:
            raise ValueError(f"{where}: the chat template has no generation prompt: expected Qwen3-VL's")
        return begun.rfind("<think>") > max(begun.rfind("</think>"), len(asked) - 1)

    if opens():
        tokenizer.chat_template += _CLOSE_THOUGHT
        if opens():
            raise ValueError(
                f"{where}: the chat template opens a thought (<think>) where the answer begins, in a way that cannot "
                "be closed: use the template of the Instruct model"
            )


def _check_model(files: SideFiles, largest: int, image: int) -> None:
    """Do the tokenizer and the model of the folder's config.json, where there is one, belong together?"""
    config = files.json(CONFIG)
    text = config.get("text_config")
    rows = text.get("vocab_size") if isinstance(text, dict) else None
    if isinstance(rows, int) and largest >= rows:
        raise ValueError(
            f"{files.folder}: the tokenizer has ids up to {largest}, the embedding of config.json has {rows} rows: "
            "take the tokenizer that belongs to the model, or add rows first (resize_token_embeddings in transformers)"
        )
    if config.get("image_token_id", image) != image:
        raise ValueError(
            f"{files.folder}: the tokenizer's image token is {image}, config.json says "
            f"{config['image_token_id']!r:.60}: tokenizer and model do not belong together"
        )


class ChatEncoder:
    """Turns (tokens of the source, tokens of the target, instruction) into token ids.

    Only the chat template writes control tokens: a prompt that holds one is refused, in an answer it is text."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt):
        self.tokenizer, self.prompt = tokenizer, prompt
        self.text = TextEncoder(tokenizer)
        self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE_PAD)
        self.end_token_id = tokenizer.convert_tokens_to_ids(END_OF_TURN)
        # Any token will do behind the last sample, but one that stands for a part of a picture.
        pad = tokenizer.pad_token_id
        self.pad_token_id = self.end_token_id if pad in (None, self.image_token_id) else pad
        for field in _FIELDS:
            control = self.text.control_tokens_in(getattr(prompt, field))
            if control:
                raise ValueError(
                    f"the prompt's `{field}` holds {control[0]}, a control token of the tokenizer: write it without"
                )
        ids = self.text.with_control_tokens(_render(tokenizer, prompt.messages(), "the tokenizer"))
        slots = [position for position, token in enumerate(ids) if token == self.image_token_id]
        if len(slots) != 2:
            raise ValueError(
                f"the chat template yields {len(slots)} {IMAGE_PAD} slots for two pictures: expected Qwen3-VL's"
            )
        self._before, self._between, self._after = ids[: slots[0]], ids[slots[0] + 1 : slots[1]], ids[slots[1] + 1 :]
        self._answer = lru_cache(maxsize=100_000)(self._encode_answer)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_answer"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _answer=lru_cache(maxsize=100_000)(self._encode_answer))

    @property
    def fingerprints(self) -> dict[str, str]:
        """What the ids depend on, part by part; "tokenizer" is words, merges, added tokens and normalizer."""
        return {
            "prompt": self.prompt.fingerprint,
            "tokenizer": self.text.fingerprint,
            "chat_template": hashlib.sha256(str(self.tokenizer.chat_template).encode()).hexdigest(),
        }

    def prompt_ids(self, source_tokens: int, target_tokens: int) -> list[int]:
        """The prompt up to where the answer begins, pictures included."""
        image = [self.image_token_id]
        return self._before + image * source_tokens + self._between + image * target_tokens + self._after

    def answer_ids(self, instruction: str) -> tuple[int, ...]:
        """The answer and the end of the turn; this is all that is trained on."""
        return self._answer(instruction)

    def _encode_answer(self, instruction: str) -> tuple[int, ...]:
        ids = self.text(instruction.strip())
        if not ids:
            raise ValueError(f"the instruction {instruction!r} has no token")
        return (*ids, self.end_token_id)
