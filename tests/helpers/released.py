"""Folders laid out as the Qwen3-VL releases are: their file names, the keys of their JSON files, their shards.

Sizes are the releases' own in `RELEASES`; `lay_out` writes a folder of one with everything small."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from editcaption_mega.model.random_folder import CHAT_TEMPLATE, SmallModel
from tests.helpers import small_job

_DENSE = dict(attention_bias=False, attention_dropout=0.0, hidden_act="silu", initializer_range=0.02)
_VISION_SMALL = dict(depth=24, hidden_size=1024, intermediate_size=4096, deepstack_visual_indexes=[5, 11, 17])
_VISION = dict(depth=27, hidden_size=1152, intermediate_size=4304, deepstack_visual_indexes=[8, 16, 24])


def _text(hidden, ffn, layers, heads, kv, **more):
    return dict(
        hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
        num_key_value_heads=kv, **more,
    )  # fmt: skip


def _experts(ffn):
    return dict(
        decoder_sparse_step=1, mlp_only_layers=[], moe_intermediate_size=ffn, norm_topk_prob=True, num_experts=128,
        num_experts_per_tok=8,
    )  # fmt: skip


# name: (text sizes, vision sizes, tied, files of weights)
RELEASES = {
    "2B": (_text(2048, 6144, 28, 16, 8), _VISION_SMALL, True, 1),
    "4B": (_text(2560, 9728, 36, 32, 8), _VISION_SMALL, True, 2),
    "8B": (_text(4096, 12288, 36, 32, 8), _VISION, False, 4),
    "32B": (_text(5120, 25600, 64, 64, 8), _VISION, False, 14),
    "30B-A3B": (_text(2048, 6144, 48, 32, 4, **_experts(768)), _VISION, False, 13),
    "235B-A22B": (_text(4096, 12288, 94, 64, 4, **_experts(1536)), _VISION, False, 96),
}
PREPROCESSOR = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
}
VIDEO_PREPROCESSOR = PREPROCESSOR | {
    "size": {"longest_edge": 25165824, "shortest_edge": 4096},
    "video_processor_type": "Qwen3VLVideoProcessor",
}
del VIDEO_PREPROCESSOR["image_processor_type"]


def config(name: str, *, eos: int = 151645, ids: dict[str, int] | None = None) -> dict:
    """config.json of a release, key by key."""
    text, vision, tied, _ = RELEASES[name]
    kind = "qwen3_vl_moe" if "num_experts" in text else "qwen3_vl"
    return {
        "architectures": ["Qwen3VLMoeForConditionalGeneration" if "moe" in kind else "Qwen3VLForConditionalGeneration"],
        "image_token_id": 151655,
        "model_type": kind,
        "text_config": {
            **_DENSE,
            "bos_token_id": 151643,
            "dtype": "bfloat16",
            "eos_token_id": eos,
            "head_dim": 128,
            "max_position_embeddings": 262144,
            "model_type": f"{kind}_text",
            "rms_norm_eps": 1e-06,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
            "rope_theta": 5000000,
            "use_cache": True,
            "vocab_size": 151936,
            **text,
        }
        | ({"tie_word_embeddings": True} if tied else {}),
        "tie_word_embeddings": tied,
        "transformers_version": "4.57.0.dev0",
        "video_token_id": 151656,
        "vision_config": {
            "hidden_act": "gelu_pytorch_tanh",
            "in_channels": 3,
            "initializer_range": 0.02,
            "model_type": kind,
            "num_heads": 16,
            "num_position_embeddings": 2304,
            "out_hidden_size": text["hidden_size"],
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            **vision,
        },
        "vision_end_token_id": 151653,
        "vision_start_token_id": 151652,
        **(ids or {}),
    }


def lay_out(folder: Path, name: str, made: Path | None = None) -> Path:
    """A folder of release `name`, everything small. made: where transformers wrote the small model (kept there)."""
    text, _, tied, files = RELEASES[name]
    made = made or small_model(folder.with_name(folder.name + "-made"), name)
    small = json.loads((made / "config.json").read_text())
    ids = {key: small[key] for key in small if key.endswith("_token_id")}
    released = config(name, eos=small["text_config"]["eos_token_id"], ids=ids)
    sizes = small["text_config"]
    rope = sizes["rope_parameters"]
    released["text_config"] |= {key: sizes[key] for key in released["text_config"].keys() & sizes.keys()} | {
        "dtype": "bfloat16",
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": rope["mrope_section"], "rope_type": "default"},
        "rope_theta": rope["rope_theta"],
    }
    if "num_experts" in text:
        released["text_config"]["num_experts"] = sizes.get("num_experts") or sizes["num_local_experts"]
    vision = small["vision_config"]
    released["vision_config"] |= {key: vision[key] for key in released["vision_config"].keys() & vision.keys()}
    folder.mkdir()
    put(folder / "config.json", released)
    put(folder / "preprocessor_config.json", PREPROCESSOR)
    put(folder / "video_preprocessor_config.json", VIDEO_PREPROCESSOR)
    put(folder / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    end, pad = sizes["eos_token_id"], sizes["pad_token_id"]
    generation = {"bos_token_id": pad, "pad_token_id": pad, "do_sample": True, "eos_token_id": [end, pad], "top_k": 20}
    generation |= {"top_p": 0.8, "repetition_penalty": 1.0, "temperature": 0.7, "transformers_version": "4.56.0"}
    put(folder / "generation_config.json", generation)
    shutil.copy(made / "tokenizer.json", folder)
    tokenizer = json.loads((made / "tokenizer_config.json").read_text())
    put(folder / "tokenizer_config.json", tokenizer | {"chat_template": CHAT_TEMPLATE, "model_max_length": 262144})
    vocabulary = json.loads((made / "tokenizer.json").read_text())["model"]
    put(folder / "vocab.json", vocabulary["vocab"])
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in vocabulary["merges"]), encoding="utf-8")
    _write_weights(load_file(made / "model.safetensors"), folder, files)
    return folder


def small_model(folder: Path, name: str) -> Path:
    """As transformers 5 writes it."""
    text, _, tied, _ = RELEASES[name]
    size = small_job.SIZE.__dict__ | {"tied": tied, "experts": 4 if "num_experts" in text else 0}
    return small_job.write_folder(folder, SmallModel(**size))


def _write_weights(tensors: dict, folder: Path, files: int) -> None:
    """bf16, experts as [expert, in, out], in `files` files with their index."""
    for name, tensor in tensors.items():
        turned = tensor.transpose(1, 2) if ".experts." in name else tensor
        tensors[name] = turned.bfloat16().contiguous()
    if files == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    weight_map = {}
    for number in range(files):
        part = dict(list(tensors.items())[number::files])
        file = f"model-{number + 1:05d}-of-{files:05d}.safetensors"
        save_file(part, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    put(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def put(path: Path, value) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
