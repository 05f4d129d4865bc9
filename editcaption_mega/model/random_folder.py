"""A small random Qwen3-VL folder with a tokenizer of its own: for the demo and the tests.

The architecture is the real one (interleaved MRoPE, DeepStack, experts); only the sizes are small. transformers
draws the weights, so that the folder is what any Hugging Face folder is.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

# The turns of Qwen3-VL's chat format, without tools.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.content is string -%}{{- message.content -}}
{%- else -%}
{%- for content in message.content -%}
{%- if content.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif 'text' in content -%}{{- content.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@dataclass(frozen=True)
class SmallModel:
    """Sizes of a small model. `experts` 0 is dense; `seed` decides the weights."""

    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 8
    num_kv_heads: int = 4
    head_dim: int = 32
    intermediate_size: int = 384
    experts: int = 4
    experts_per_token: int = 2
    expert_intermediate_size: int = 192
    vision_hidden_size: int = 96
    vision_depth: int = 2
    vision_heads: int = 4
    vision_intermediate_size: int = 192
    patch_size: int = 16
    deepstack_layers: tuple[int, ...] = (0, 1)
    num_grid_per_side: int = 8
    tied: bool = False
    vocabulary: int = 0  # rows of the embedding where the tokenizer has fewer
    # Three choices for small widths; the released models' values are for widths of thousands and long texts.
    initializer_range: float = 0.06  # about 1 / sqrt(hidden)
    position_range: float = 0.7  # learned picture positions as loud as the patches, so that places can be compared
    rope_theta: float = 100.0  # neighboring places differ clearly even with few rotary channels
    seed: int = 0


def train_tokenizer(texts: list[str], vocabulary: int):
    """A byte-level BPE tokenizer over `texts` with Qwen3-VL's special tokens and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS),
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def write_random_folder(folder: str | Path, tokenizer, size: SmallModel) -> None:
    """Write config, random fp32 weights, tokenizer and image processor settings of a small model.

    The vocabulary is padded to a multiple of 128, so that tensor-parallel ranks can share it."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = _random_model(size, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": size.patch_size,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"shortest_edge": 4 * 32 * 32, "longest_edge": 1280 * 32 * 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")


def _random_model(size: SmallModel, tokenizer):
    """The model of transformers, fp32."""
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    config_class, model_class = (
        (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration)
        if size.experts
        else (Qwen3VLConfig, Qwen3VLForConditionalGeneration)
    )
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    config = config_class(
        text_config=_text_config(size, len(tokenizer), ids),
        vision_config=_vision_config(size),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=size.tied,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(size.seed)
        model = model_class(config).float()
        vision = model.model.visual
        torch.nn.init.normal_(vision.pos_embed.weight, std=size.position_range)
        torch.nn.init.normal_(vision.patch_embed.proj.weight, std=vision.patch_embed.proj.weight[0].numel() ** -0.5)
    model.generation_config.eos_token_id = ids["<|im_end|>"]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model


def _text_config(size: SmallModel, tokens: int, ids: dict[str, int]) -> dict[str, Any]:
    """tokens: of the tokenizer. ids: of the special ones."""
    third = size.head_dim // 2 // 3
    config = {
        "vocab_size": -(-max(tokens, size.vocabulary) // 128) * 128,
        "hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size,
        "num_hidden_layers": size.num_layers,
        "num_attention_heads": size.num_heads,
        "num_key_value_heads": size.num_kv_heads,
        "head_dim": size.head_dim,
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": size.tied,
        "initializer_range": size.initializer_range,
        "pad_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": size.rope_theta,
            "mrope_section": [size.head_dim // 2 - 2 * third, third, third],
            "mrope_interleaved": True,
        },
    }
    if size.experts:
        config |= {
            "num_experts": size.experts,
            "num_experts_per_tok": size.experts_per_token,
            "moe_intermediate_size": size.expert_intermediate_size,
            "norm_topk_prob": True,
        }
    return config


def _vision_config(size: SmallModel) -> dict[str, Any]:
    return {
        "depth": size.vision_depth,
        "hidden_size": size.vision_hidden_size,
        "intermediate_size": size.vision_intermediate_size,
        "num_heads": size.vision_heads,
        "patch_size": size.patch_size,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": size.hidden_size,
        "num_position_embeddings": size.num_grid_per_side**2,
        "deepstack_visual_indexes": list(size.deepstack_layers),
        "initializer_range": size.initializer_range,
    }
