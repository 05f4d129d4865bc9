"""Checkpoints, and what a Hugging Face folder says beside its weights."""

import json
import tempfile
from functools import cache
from pathlib import Path
from random import Random

from editcaption_mega.conversion.store import StoreReader
from editcaption_mega.conversion.verify import verify_folder
from editcaption_mega.data.images.patches import ImageSettings
from editcaption_mega.data.text.side_files import SideFiles, weight_index
from editcaption_mega.model.architecture import Architecture
from editcaption_mega.training.resume import read_state
from tests.helpers import small_store

from .driver import Attempt, Reader
from .mutate import mutated, mutated_json


@cache
def _checkpoint() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        written = small_store.write(Path(folder) / "step_00000003")
        return {str(path.relative_to(written)): path.read_bytes() for path in written.rglob("*") if path.is_file()}


def _checkpoints(random: Random, folder: Path, attempt: Attempt) -> None:
    step = folder / "step_00000003"
    files = dict(_checkpoint())
    manifest = json.loads(files["tensors.json"])
    match random.randrange(4):
        case 0:  # of another content, with a checksum that fits
            del manifest["sha256"]
            try:
                changed = json.loads(mutated_json(random, manifest))
                files["tensors.json"] = small_store.with_own_digest(changed)
            except (ValueError, TypeError):
                files["tensors.json"] = mutated_json(random, manifest)
        case 1:  # of the form without checksums
            del manifest["sha256"]
            sizes = {name: file["bytes"] for name, file in manifest["files"].items() if name.endswith(".safetensors")}
            files["tensors.json"] = mutated_json(random, {**manifest, "format": 1, "files": sizes})
        case 2:
            state = mutated_json(random, json.loads(files["state.json"]))
            files["state.json"] = state
        case _:
            name = random.choice(sorted(files))
            files[name] = mutated(random, files[name], files["state.json"])
    for name, content in files.items():
        (step / name).parent.mkdir(parents=True, exist_ok=True)
        (step / name).write_bytes(content)
    attempt(read_state, step, verify=random.random() < 0.5)
    attempt(verify_folder, folder / "step_00000003")
    if store := attempt(StoreReader, step):
        for key in list(store.tensors):
            attempt(store.read, key)


def _config() -> dict[str, dict]:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    text = {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "rms_norm_eps": 1e-6,
        "rope_parameters": rope, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True, "hidden_act": "silu",
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 64, "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1], "hidden_act": "gelu_pytorch_tanh",
    }  # fmt: skip
    picture = {
        "patch_size": 16,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    return {
        "config.json": {
            "model_type": "qwen3_vl_moe", "text_config": text, "vision_config": vision, "image_token_id": 500,
            "vision_start_token_id": 502, "vision_end_token_id": 503, "tie_word_embeddings": False,
        },
        "preprocessor_config.json": picture,
        "processor_config.json": {"image_processor": picture, "chat_template": "{{ messages }}"},
        "chat_template.json": {"chat_template": "{{ messages }}"},
        "tokenizer_config.json": {"chat_template": [{"name": "default", "template": "{{ messages }}"}]},
        "generation_config.json": {"eos_token_id": [1, 2]},
        "model.safetensors.index.json": {"metadata": {"total_size": 8}, "weight_map": {"a": "model.safetensors"}},
    }  # fmt: skip


def _configs(random: Random, folder: Path, attempt: Attempt) -> None:
    files = _config()
    if random.random() < 0.5:
        del files["config.json"]["text_config"]["rope_parameters"]
        text = files["config.json"]["text_config"]
        text |= {"rope_theta": 5e6, "rope_scaling": {"mrope_section": [6, 5, 5], "mrope_interleaved": True}}
    target = random.choice([*files, "config.json", "config.json"])
    for name, value in files.items():
        (folder / name).write_bytes(mutated_json(random, value) if name == target else json.dumps(value).encode())
    (folder / "model.safetensors").write_bytes(b"")
    attempt(Architecture.from_folder, folder)
    attempt(ImageSettings.from_folder, folder, min_pixels=1024, max_pixels=10**6)
    attempt(weight_index, folder)
    if side := attempt(SideFiles.read, folder):
        attempt(side.chat_templates)
        attempt(side.end_ids)
        attempt(side.image_processor)


MODEL_READERS = [Reader("checkpoints", _checkpoints, 2), Reader("configs", _configs, 2)]
