"""Generation in process: a Hugging Face Qwen3-VL folder, tokenized prompts in, text out.

Prompts of a batch are padded on the left and keep their own positions, so a prompt's answer doesn't depend on its
neighbours (beyond the rounding of a larger matrix product).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from editcaption_mega.conversion import WeightSource
from editcaption_mega.data.text.prompt import END_OF_TURN

from .adapted import add_adapter
from .folder import check_model
from .sampling import RowSampler


class EncodedPrompt(Protocol):
    """A prompt as tokens and patches; `data` makes them."""

    @property
    def input_ids(self) -> list[int]: ...
    @property
    def pixel_values(self) -> Tensor: ...  # [patches, channels * temporal_patch_size * patch_size ** 2]
    @property
    def grid_thw(self) -> list[tuple[int, int, int]]: ...  # (frames, height, width) of each image, in patches


@dataclass(frozen=True)
class Generation:
    """One answer. `finished` is False when max_new_tokens cut it off; token_count excludes the closing token."""

    text: str
    token_count: int
    finished: bool


class Generator:
    """A Qwen3-VL model, dense or mixture-of-experts, ready to answer prompts.

    folder: a Hugging Face folder (config.json, safetensors, tokenizer, preprocessor_config.json), or a PEFT folder of
        adapters, which are added to the weights that they are on. Code in it never runs.
    device: where the model lives; None is the rank's own CUDA device (the first without torchrun), else the CPU.
    dtype: of weights and arithmetic; None is the one of the folder's config.json.
    ValueError in one sentence when the folder lacks something.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        path = check_model(folder)
        self.device = torch.device(device or own_device())
        source = WeightSource.of(path)
        self.tokenizer, self.model = _load(source.folder, dtype)
        if source.adapter is not None:
            add_adapter(self.model, source.adapter)
        self.model.to(self.device).eval()
        self.image_token_id = self.model.config.image_token_id
        self.merge_size = self.model.config.vision_config.spatial_merge_size
        self.end_ids = self._end_ids()

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
        batch_size: int = 8,
        numbers: Sequence[int] | None = None,
    ) -> list[Generation]:
        """One answer per prompt, in order.

        temperature 0 takes the likeliest token. Above 0, tokens are drawn from softmax(logits / temperature) cut to the
        smallest set with probability top_p, and the draws of prompt i depend on (seed, numbers[i]) alone (default: i),
        not on batch_size.
        ValueError for settings out of range and for prompts whose image tokens don't fit their grids.
        """
        _check_settings(max_new_tokens, temperature, top_p, batch_size)
        for number, prompt in enumerate(prompts):
            self._check_prompt(number, prompt)
        # Neighbours of like length waste the least padding; the answers go back to the order of the prompts.
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number].input_ids))
        answers: dict[int, Generation] = {}
        draws = range(len(prompts)) if numbers is None else numbers
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            sampler = RowSampler(seed, [draws[i] for i in rows], temperature, top_p) if temperature > 0 else None
            batch = [prompts[number] for number in rows]
            for number, tokens in zip(rows, self._answer(batch, max_new_tokens, sampler), strict=True):
                answers[number] = self._read(tokens)
        return [answers[number] for number in range(len(prompts))]

    @torch.inference_mode()
    def _answer(self, prompts: list[EncodedPrompt], max_new_tokens: int, sampler: RowSampler | None) -> list[list[int]]:
        from transformers import GenerationConfig, LogitsProcessorList

        inputs = self._collate(prompts)
        # Built here and whole: a folder's generation_config.json often asks for sampling, which the caller decides.
        config = GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, eos_token_id=self.end_ids, pad_token_id=self._pad_id()
        )
        processors = LogitsProcessorList([sampler] if sampler else [])
        kept, self.model.generation_config = self.model.generation_config, config
        try:
            output = self.model.generate(**inputs, generation_config=config, logits_processor=processors)
        finally:
            self.model.generation_config = kept
        answers: list[list[int]] = output[:, inputs["input_ids"].shape[1] :].tolist()
        return answers

    def _collate(self, prompts: list[EncodedPrompt]) -> dict[str, Tensor]:
        """Left-padded tokens, their mask, which of them are image tokens, and the patches of all images in order."""
        longest = max(len(prompt.input_ids) for prompt in prompts)
        input_ids = torch.full((len(prompts), longest), self._pad_id(), dtype=torch.int64)
        mask = torch.zeros_like(input_ids)
        for row, prompt in enumerate(prompts):
            tokens = torch.tensor(prompt.input_ids, dtype=torch.int64)
            input_ids[row, longest - len(tokens) :] = tokens
            mask[row, longest - len(tokens) :] = 1
        inputs = {
            "input_ids": input_ids,
            "attention_mask": mask,
            # transformers computes the 3-D rotary positions from these: 0 text, 1 image
            "mm_token_type_ids": ((input_ids == self.image_token_id) & mask.bool()).int(),
        }
        grids = [grid for prompt in prompts for grid in prompt.grid_thw]
        if grids:
            patches = torch.cat([prompt.pixel_values for prompt in prompts if prompt.grid_thw])
            inputs["pixel_values"] = patches.to(self.model.dtype)
            inputs["image_grid_thw"] = torch.tensor(grids, dtype=torch.int64)
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _read(self, tokens: list[int]) -> Generation:
        end = next((at for at, token in enumerate(tokens) if token in self.end_ids), None)
        answer = tokens if end is None else tokens[:end]
        text = self.tokenizer.decode(answer, skip_special_tokens=True).strip()
        return Generation(text, len(answer), end is not None)

    def _end_ids(self) -> list[int]:
        """The tokens that close an answer: the one that training ends answers with, whatever the folder's files say;
        the generation config's, and the tokenizer's own."""
        configured = self.model.generation_config.eos_token_id
        ids = [] if configured is None else configured if isinstance(configured, list) else [configured]
        ids = sorted({*ids, self.tokenizer.eos_token_id, self.tokenizer.get_vocab().get(END_OF_TURN)} - {None})
        if not ids:
            raise ValueError(
                f"{self.tokenizer.name_or_path}: expected an end-of-answer token (`eos_token_id` in "
                "generation_config.json, or the tokenizer's `eos_token`), found none"
            )
        return ids

    def _pad_id(self) -> int:
        """Any id will do under the mask but the image token's, which the model would take for a place to fill."""
        pad = self.tokenizer.pad_token_id
        return self.end_ids[0] if pad is None or pad == self.image_token_id else pad

    def _check_prompt(self, number: int, prompt: EncodedPrompt) -> None:
        expected = [t * h * w // self.merge_size**2 for t, h, w in prompt.grid_thw]
        found = sum(token == self.image_token_id for token in prompt.input_ids)
        if not prompt.input_ids:
            raise ValueError(f"prompt {number}: `input_ids` must hold at least one token, found none")
        if found != sum(expected):
            raise ValueError(
                f"prompt {number}: `input_ids` must hold {sum(expected)} image tokens (id {self.image_token_id}) "
                f"for the grids {list(prompt.grid_thw)}, found {found}"
            )
        patches = sum(t * h * w for t, h, w in prompt.grid_thw)
        if patches and prompt.pixel_values.shape[0] != patches:
            raise ValueError(
                f"prompt {number}: `pixel_values` must hold {patches} patches for the grids {list(prompt.grid_thw)}, "
                f"found {prompt.pixel_values.shape[0]}"
            )


def own_device() -> str:
    """The CUDA device of this process: under torchrun each rank has its own."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _load(path: Path, dtype: torch.dtype | None) -> tuple[Any, Any]:
    """Tokenizer and model as transformers makes them. ValueError for a folder of which it cannot."""
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # of any type, where a field of a file is of another one
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise ValueError(f"{path}: transformers cannot load this folder ({reason:.500})") from error
    return tokenizer, model


def _check_settings(max_new_tokens: int, temperature: float, top_p: float, batch_size: int) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"`max_new_tokens` must be at least 1, found {max_new_tokens}")
    if not temperature >= 0:
        raise ValueError(f"`temperature` must be 0 (the likeliest token) or more, found {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"`top_p` must lie in (0, 1], found {top_p}")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, found {batch_size}")
