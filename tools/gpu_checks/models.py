"""Models of released sizes, or small ones for a CPU, with weights drawn on the device: none are read."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from editcaption_mega.conversion import local_param_shards, rules_for
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.released import released_architecture
from editcaption_mega.settings import JobSettings, load_job
from editcaption_mega.training.megatron_optimizer import begin_state
from editcaption_mega.training.optimizer import TrainState, build_train_state, freeze_modules

from .figures import Machine

CONFIGS = Path(__file__).parents[2] / "configs"


def architecture_of(name: str, machine: Machine) -> Architecture:
    """A released model's sizes; on a CPU the same kind of model, small."""
    architecture = released_architecture(name)
    return architecture if machine.on_gpu else small(architecture)


def small(architecture: Architecture) -> Architecture:
    """The same model with a few narrow layers, which a CPU executes in a second."""
    vision = replace(
        architecture.vision, depth=4, hidden_size=64, intermediate_size=128, num_heads=4, out_hidden_size=128,
        num_position_embeddings=256, deepstack_layers=(0, 1, 2),
    )  # fmt: skip
    experts = architecture.experts and replace(architecture.experts, num_experts=32, intermediate_size=64)
    return replace(
        architecture, vision=vision, experts=experts, num_layers=4, hidden_size=128, intermediate_size=256,
        num_heads=4, num_kv_heads=2, head_dim=32, mrope_section=(6, 5, 5),
    )  # fmt: skip


def job_settings(config: str, machine: Machine, gpu: list[str], cpu: list[str]) -> JobSettings:
    """A shipped job of one rank with these settings for a GPU, or those for a CPU."""
    return load_job(CONFIGS / config, [f"training.precision={machine.precision}", *machine.size(gpu, cpu)])


def model_with_weights(architecture: Architecture, settings: JobSettings) -> list[nn.Module]:
    """The model's chunks on this rank, weights as at the start of pretraining. After `platform.initialize`."""
    chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
    draw_weights(chunks)
    return chunks


def transformers_model(architecture: Architecture, weights: dict[str, Tensor], machine: Machine) -> nn.Module:
    """transformers' dense model of these sizes with these weights, on the device."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = architecture.vision
    text = {
        "vocab_size": architecture.vocab_size,
        "hidden_size": architecture.hidden_size,
        "intermediate_size": architecture.intermediate_size,
        "num_hidden_layers": architecture.num_layers,
        "num_attention_heads": architecture.num_heads,
        "num_key_value_heads": architecture.num_kv_heads,
        "head_dim": architecture.head_dim,
        "rms_norm_eps": architecture.norm_eps,
        "attention_bias": False,
        "pad_token_id": None,
        "tie_word_embeddings": architecture.tied_embeddings,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": architecture.rope_theta, "mrope_interleaved": True,
            "mrope_section": list(architecture.mrope_section),
        },
    }  # fmt: skip
    tower = {
        **{name: value for name, value in vars(vision).items() if name != "deepstack_layers"},
        "deepstack_visual_indexes": list(vision.deepstack_layers),
    }
    config = Qwen3VLConfig(
        text_config=text,
        vision_config=tower,
        image_token_id=architecture.image_token_id,
        vision_start_token_id=architecture.vision_start_token_id,
        vision_end_token_id=architecture.vision_end_token_id,
        tie_word_embeddings=architecture.tied_embeddings,
    )
    dtype = next(iter(weights.values())).dtype
    with torch.device(machine.device):
        model = Qwen3VLForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    missing, unknown = model.load_state_dict(weights, strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}, (missing, unknown)
    return model.train()


@torch.no_grad()
def draw_weights(modules: list[nn.Module]) -> None:
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02)
            else:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)


def train_state_of(chunks: list[nn.Module], architecture: Architecture, settings: JobSettings) -> TrainState:
    """Model and optimizer as they are between two steps."""
    param_shards = local_param_shards(chunks, rules_for(architecture))
    freeze_modules(param_shards, settings.optimizer)
    state = build_train_state(
        chunks, param_shards, settings.optimizer, precision=settings.training.precision, total_steps=1000
    )
    begin_state(state.optimizer, 1)
    for chunk in state.chunks:
        chunk.train()
    return state
