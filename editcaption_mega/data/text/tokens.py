"""Where text becomes tokens: what people and models wrote never becomes a control token.

A tokenizer reads `<|im_end|>` in any text as its control token. Only a chat template may write those, so text that
comes from elsewhere goes through `TextEncoder`, which knows the words of the tokenizer and none of its added tokens.
"""

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING

from tokenizers import Tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TextEncoder:
    """Text -> token ids, by the tokenizer's own normalizer, splitting and words; added tokens are spelled out.

    Text without added tokens gets the very ids that the tokenizer gives. Raises ValueError for a tokenizer that is
    none of the `tokenizers` library."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase"):
        self.tokenizer = tokenizer
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError(
                f"the tokenizer is a {type(tokenizer).__name__}: expected one that the tokenizers library runs "
                "(tokenizer.json, or vocab.json with merges.txt), as Qwen3-VL has"
            )
        self.control_tokens: dict[int, str] = {
            token: added.content for token, added in tokenizer.added_tokens_decoder.items()
        }
        self._plain = Tokenizer(backend.model)  # shares the words; added tokens belong to the outer object
        if backend.normalizer is not None:
            self._plain.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            self._plain.pre_tokenizer = backend.pre_tokenizer

    def __call__(self, text: str) -> list[int]:
        """Token ids of `text`; no control token is among them. Raises ValueError for half a character."""
        try:
            ids = self._plain.encode(text, add_special_tokens=False).ids
        except TypeError:  # what the library says of a str that is no Unicode
            raise ValueError("half a character (a lone surrogate) is in the text") from None
        spelled = self.control_tokens.keys() & set(ids)
        if spelled:
            raise ValueError(
                f"the tokenizer has its control token {self.control_tokens[min(spelled)]!r} among its words, so text "
                "cannot be kept apart from it: expected a Qwen3-VL tokenizer"
            )
        return ids

    def with_control_tokens(self, text: str) -> list[int]:
        """Token ids of `text` that a chat template wrote: control tokens are what they are."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=False)["input_ids"]
        return ids

    def control_tokens_in(self, text: str) -> list[str]:
        """The control tokens that the tokenizer would read in `text`, in order."""
        return [self.control_tokens[token] for token in self.with_control_tokens(text) if token in self.control_tokens]

    @cached_property
    def fingerprint(self) -> str:
        """Changes with anything that decides which ids a text gets: words, merges, added tokens, normalizer, splitting;
        and with the names of the special tokens."""
        added = {token: repr(added) for token, added in self.tokenizer.added_tokens_decoder.items()}
        special = {name: str(token) for name, token in self.tokenizer.special_tokens_map.items()}
        parts = json.dumps([added, special], sort_keys=True)
        return hashlib.sha256(f"{self._plain.to_str()}\n{parts}".encode()).hexdigest()
