"""A small random Qwen3-VL folder with a tokenizer of its own: for the demo and the tests.

The architecture is the real one (interleaved MRoPE, DeepStack, experts); only the sizes are small. transformers
draws the weights, so that the folder is what any Hugging Face folder is.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from editcaption_mega.data.text.prompt import Prompt
from editcaption_mega.settings import SmallModel

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


def write_small_folder(
    folder: str | Path, size: SmallModel, prompt: Prompt, texts: Sequence[str], *, vocabulary: int = 640
) -> None:
    """A small model whose tokenizer is trained on these texts and on the prompt's; the folder appears when it is whole.

    vocabulary: of the tokenizer; the model's is at least that. Raises ValueError where the folder is there already."""
    folder = Path(folder)
    if folder.exists():
        raise ValueError(f"{folder} is there already: choose another folder, nothing was written")
    frame = f"system\nuser\nassistant\n{prompt.system}{prompt.before_source}{prompt.before_target}{prompt.request}"
    tokenizer = train_tokenizer([*texts, *[frame] * 50], vocabulary)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_random_folder(partial, tokenizer, size)
    partial.rename(folder)


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
