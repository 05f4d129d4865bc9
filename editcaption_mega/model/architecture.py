"""The sizes of a Qwen3-VL model, read from the `config.json` of a Hugging Face folder.

Class defaults of transformers are wrong for the released Qwen3-VL models, so nothing is defaulted here: a field
that matters and is missing is an error.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class VisionArchitecture:
    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    in_channels: int
    patch_size: int
    temporal_patch_size: int
    spatial_merge_size: int
    out_hidden_size: int
    num_position_embeddings: int
    deepstack_layers: tuple[int, ...]

    @property
    def patch_dim(self) -> int:
        """Values in one flattened patch: channels x frames x height x width."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def merged_size(self) -> int:
        return self.hidden_size * self.spatial_merge_size**2

    @property
    def position_grid(self) -> int:
        """Side of the square table of learned positions."""
        return round(self.num_position_embeddings**0.5)


@dataclass(frozen=True)
class ExpertArchitecture:
    num_experts: int
    experts_per_token: int
    intermediate_size: int


@dataclass(frozen=True)
class Architecture:
    """Sizes of the language model, its experts (None: dense) and its vision tower; `hf_config` is the file itself."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    norm_eps: float
    rope_theta: float
    mrope_section: tuple[int, int, int]
    tied_embeddings: bool
    experts: ExpertArchitecture | None
    vision: VisionArchitecture
    image_token_id: int
    vision_start_token_id: int
    vision_end_token_id: int
    hf_config: dict[str, Any]

    @property
    def queries_per_group(self) -> int:
        return self.num_heads // self.num_kv_heads

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Architecture":
        """Read `folder/config.json`. Raises ValueError when it is not a Qwen3-VL model or lacks a field."""
        path = Path(folder) / "config.json"
        if not path.is_file():
            raise ValueError(f"{folder} holds no config.json: expected a Hugging Face Qwen3-VL folder")
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not valid JSON: {error}") from None
        return cls.from_config(config, where=str(path))

    @classmethod
    def from_config(cls, config: dict[str, Any], where: str = "config") -> "Architecture":
        kind = config.get("model_type")
        if kind not in ("qwen3_vl", "qwen3_vl_moe"):
            raise ValueError(f"{where}: model_type is {kind!r}, expected 'qwen3_vl' or 'qwen3_vl_moe'")
        text = _Fields(config.get("text_config"), f"{where}: text_config")
        vision = _Fields(config.get("vision_config"), f"{where}: vision_config")
        top = _Fields(config, where)
        # Two spellings: rope_parameters (transformers 5) and rope_theta + rope_scaling (the released files).
        rope = text.get("rope_parameters") or {**(text.get("rope_scaling") or {}), "rope_theta": text.get("rope_theta")}
        rope = _Fields(rope, f"{where}: text_config.rope_parameters")
        text.expect("attention_bias", False, default=False)
        text.expect("hidden_act", "silu")
        vision.expect("hidden_act", "gelu_pytorch_tanh")
        rope.expect("mrope_interleaved", True, default=True)
        rope_type = rope.get("rope_type") or rope.get("type") or "default"
        if rope_type != "default":
            raise ValueError(f"{where}: rope_type {rope_type!r} is not supported, expected 'default'")
        experts = None
        if kind == "qwen3_vl_moe":
            text.expect("norm_topk_prob", True, default=True)
            text.expect("decoder_sparse_step", 1, default=1)
            text.expect("mlp_only_layers", [], default=[])
            # The released files say num_experts, transformers 5 writes num_local_experts.
            count = text.get("num_local_experts") or text["num_experts"]
            experts = ExpertArchitecture(count, text["num_experts_per_tok"], text["moe_intermediate_size"])
        # The top level decides: text_config inherits a wrong default (see docs/weights.md).
        tied = bool(top.get("tie_word_embeddings", False))
        return cls(
            vocab_size=text["vocab_size"],
            hidden_size=text["hidden_size"],
            intermediate_size=text["intermediate_size"],
            num_layers=text["num_hidden_layers"],
            num_heads=text["num_attention_heads"],
            num_kv_heads=text["num_key_value_heads"],
            head_dim=text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"],
            norm_eps=text["rms_norm_eps"],
            rope_theta=float(rope["rope_theta"]),
            mrope_section=tuple(rope["mrope_section"]),
            tied_embeddings=tied,
            experts=experts,
            vision=VisionArchitecture(
                depth=vision["depth"],
                hidden_size=vision["hidden_size"],
                intermediate_size=vision["intermediate_size"],
                num_heads=vision["num_heads"],
                in_channels=vision.get("in_channels", 3),
                patch_size=vision["patch_size"],
                temporal_patch_size=vision["temporal_patch_size"],
                spatial_merge_size=vision["spatial_merge_size"],
                out_hidden_size=vision["out_hidden_size"],
                num_position_embeddings=vision["num_position_embeddings"],
                deepstack_layers=tuple(vision["deepstack_visual_indexes"]),
            ),
            image_token_id=top["image_token_id"],
            vision_start_token_id=top["vision_start_token_id"],
            vision_end_token_id=top["vision_end_token_id"],
            hf_config=config,
        )._checked(where)

    def _checked(self, where: str) -> "Architecture":
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{where}: {self.num_heads} heads are not a multiple of {self.num_kv_heads} kv heads")
        if sum(self.mrope_section) != self.head_dim // 2:
            raise ValueError(
                f"{where}: mrope_section {list(self.mrope_section)} sums to {sum(self.mrope_section)}, "
                f"expected head_dim / 2 = {self.head_dim // 2}"
            )
        if self.vision.out_hidden_size != self.hidden_size:
            raise ValueError(
                f"{where}: vision out_hidden_size {self.vision.out_hidden_size} differs from the language "
                f"model's hidden_size {self.hidden_size}"
            )
        if self.vision.position_grid**2 != self.vision.num_position_embeddings:
            raise ValueError(f"{where}: num_position_embeddings {self.vision.num_position_embeddings} is no square")
        return self


class _Fields:
    """A mapping whose missing keys are named in the error."""

    def __init__(self, values: Any, where: str):
        if not isinstance(values, dict):
            raise ValueError(f"{where} is missing: expected an object of a Qwen3-VL config.json")
        self.values, self.where = values, where

    def __getitem__(self, key: str) -> Any:
        if self.values.get(key) is None:
            raise ValueError(f"{self.where} lacks '{key}', which every Qwen3-VL config.json has")
        return self.values[key]

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def expect(self, key: str, wanted: Any, default: Any = None) -> None:
        found = self.values.get(key, default)
        if found is None:
            found = default
        if found != wanted:
            raise ValueError(f"{self.where}: '{key}' is {found!r}, only {wanted!r} is supported")
