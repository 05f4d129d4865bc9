"""The sizes of a Qwen3-VL model, read from the `config.json` of a Hugging Face folder.

Class defaults of transformers are wrong for the released Qwen3-VL models, so nothing is defaulted here: a field
that matters and is missing is an error.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editcaption_mega.data.text.side_files import CONFIG, SideFiles


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
    def num_grid_per_side(self) -> int:
        """Side of the square table of learned positions."""
        return round(math.sqrt(self.num_position_embeddings))


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
    hf_config: dict[str, Any] = field(compare=False)

    @property
    def queries_per_group(self) -> int:
        return self.num_heads // self.num_kv_heads

    @classmethod
    def from_folder(cls, folder: str | Path) -> "Architecture":
        """Read `folder/config.json`. Raises ValueError when it is not a Qwen3-VL model or a field cannot be used."""
        files = SideFiles.read(folder).require(CONFIG, "the model's configuration")
        return cls.from_config(files.json(CONFIG), where=str(files.folder / CONFIG))

    @classmethod
    def from_config(cls, config: dict[str, Any], where: str = "config") -> "Architecture":
        kind = config.get("model_type")
        if kind not in ("qwen3_vl", "qwen3_vl_moe"):
            raise ValueError(f"{where}: model_type is {kind!r:.60}, expected 'qwen3_vl' or 'qwen3_vl_moe'")
        top = _Fields(config, where)
        text, vision = top.fields("text_config"), top.fields("vision_config")
        for part in (top, text):
            part.refuse_quantized()
        text.expect("attention_bias", False, default=False)
        text.expect("hidden_act", "silu")
        vision.expect("hidden_act", "gelu_pytorch_tanh")
        vision.expect("in_channels", 3, default=3)
        rope = _rope(text)
        experts = None
        if kind == "qwen3_vl_moe":
            text.expect("norm_topk_prob", True, default=True)
            text.expect("decoder_sparse_step", 1, default=1)
            text.expect("mlp_only_layers", [], default=[])
            # The released files say num_experts, transformers 5 writes num_local_experts.
            count = text.count(
                "num_local_experts" if text.get("num_local_experts") else "num_experts", most=_MOST_LAYERS
            )
            experts = ExpertArchitecture(count, text.count("num_experts_per_tok"), text.count("moe_intermediate_size"))
        heads = text.count("num_attention_heads")
        temporal, height, width = rope.counts("mrope_section", length=3)
        return cls(
            vocab_size=text.count("vocab_size"),
            hidden_size=text.count("hidden_size"),
            intermediate_size=text.count("intermediate_size"),
            num_layers=text.count("num_hidden_layers", most=_MOST_LAYERS),
            num_heads=heads,
            num_kv_heads=text.count("num_key_value_heads"),
            head_dim=text.count("head_dim", default=text.count("hidden_size") // heads),
            norm_eps=text.number("rms_norm_eps"),
            rope_theta=rope.number("rope_theta"),
            mrope_section=(temporal, height, width),
            # The top level decides: text_config inherits a wrong default (see docs/weights.md).
            tied_embeddings=top.flag("tie_word_embeddings"),
            experts=experts,
            vision=VisionArchitecture(
                depth=vision.count("depth", most=_MOST_LAYERS),
                hidden_size=vision.count("hidden_size"),
                intermediate_size=vision.count("intermediate_size"),
                num_heads=vision.count("num_heads"),
                in_channels=3,
                patch_size=vision.count("patch_size"),
                temporal_patch_size=vision.count("temporal_patch_size"),
                spatial_merge_size=vision.count("spatial_merge_size"),
                out_hidden_size=vision.count("out_hidden_size"),
                num_position_embeddings=vision.count("num_position_embeddings"),
                deepstack_layers=tuple(vision.counts("deepstack_visual_indexes", least=0)),
            ),
            image_token_id=top.count("image_token_id", least=0),
            vision_start_token_id=top.count("vision_start_token_id", least=0),
            vision_end_token_id=top.count("vision_end_token_id", least=0),
            hf_config=config,
        )._checked(where)

    def _checked(self, where: str) -> "Architecture":
        vision = self.vision
        for name in ("image_token_id", "vision_start_token_id", "vision_end_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(f"{where}: {name} is {getattr(self, name)}, vocab_size only {self.vocab_size}")
        if vision.hidden_size % vision.num_heads or vision.head_dim % 4:
            raise ValueError(
                f"{where}: vision hidden_size {vision.hidden_size} is not made of {vision.num_heads} heads whose size "
                "is a multiple of 4"
            )
        if any(layer >= vision.depth for layer in vision.deepstack_layers):
            raise ValueError(
                f"{where}: deepstack_visual_indexes {list(vision.deepstack_layers)} name a layer beyond the "
                f"{vision.depth} of the vision tower"
            )
        if len(vision.deepstack_layers) > self.num_layers:
            raise ValueError(
                f"{where}: {len(vision.deepstack_layers)} deepstack_visual_indexes for {self.num_layers} layers of the "
                "language model"
            )
        if self.experts and self.experts.experts_per_token > self.experts.num_experts:
            raise ValueError(
                f"{where}: num_experts_per_tok {self.experts.experts_per_token} of only {self.experts.num_experts} "
                "experts"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"{where}: {self.num_heads} heads are not a multiple of {self.num_kv_heads} kv heads")
        if 2 * sum(self.mrope_section) != self.head_dim:
            raise ValueError(
                f"{where}: mrope_section {list(self.mrope_section)} sums to {sum(self.mrope_section)}, "
                f"expected head_dim / 2 = {self.head_dim / 2:g}"
            )
        if self.vision.out_hidden_size != self.hidden_size:
            raise ValueError(
                f"{where}: vision out_hidden_size {self.vision.out_hidden_size} differs from the language "
                f"model's hidden_size {self.hidden_size}"
            )
        if self.vision.num_grid_per_side**2 != self.vision.num_position_embeddings:
            raise ValueError(f"{where}: num_position_embeddings {self.vision.num_position_embeddings} is no square")
        return self


def _rope(text: "_Fields") -> "_Fields":
    """The rotary settings in either spelling: rope_parameters (transformers 5), or rope_theta and rope_scaling (the
    released files)."""
    if text.get("rope_parameters") is not None:
        rope = text.fields("rope_parameters")
    else:
        scaling = text.fields("rope_scaling").values if text.get("rope_scaling") is not None else {}
        rope = _Fields({**scaling, "rope_theta": text.get("rope_theta")}, f"{text.where}.rope_scaling")
    rope.expect("mrope_interleaved", True, default=True)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise ValueError(f"{rope.where}: rope_type {kind!r:.60} is not supported, expected 'default'")
    return rope


# No size of a model is larger; with more, a damaged file would keep this machine busy before anything is compared.
_MOST, _MOST_LAYERS = 1 << 31, 10_000


class _Fields:
    """A JSON object whose fields are checked as they are read; every ValueError names the file and the field."""

    def __init__(self, values: Any, where: str):
        if not isinstance(values, dict):
            what = "missing" if values is None else f"{values!r:.60}"
            raise ValueError(f"{where} is {what}: expected an object of a Qwen3-VL config.json")
        self.values, self.where = values, where

    def get(self, key: str, default: Any = None) -> Any:
        value = self.values.get(key)
        return default if value is None else value

    def fields(self, key: str) -> "_Fields":
        return _Fields(self.get(key), f"{self.where}: {key}")

    def count(self, key: str, default: int | None = None, least: int = 1, most: int = _MOST) -> int:
        value = self._needed(key, default)
        if type(value) is not int or not least <= value <= most:
            raise self._wrong(key, value, f"a whole number from {least} to {most}")
        return value

    def counts(self, key: str, *, length: int | None = None, least: int = 1) -> list[int]:
        values = self._needed(key, None)
        if (
            not isinstance(values, list)
            or (length is not None and len(values) != length)
            or not all(type(value) is int and least <= value < _MOST for value in values)
        ):
            raise self._wrong(key, values, f"a list of {length or 'some'} whole numbers of at least {least}")
        return values

    def number(self, key: str) -> float:
        value = self._needed(key, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _MOST:
            raise self._wrong(key, value, "a number above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.get(key, False)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def expect(self, key: str, wanted: Any, default: Any = None) -> None:
        value = self.get(key, default)
        if type(value) is not type(wanted) or value != wanted:
            raise ValueError(f"{self.where}: '{key}' is {value!r:.60}, only {wanted!r} is supported")

    def refuse_quantized(self) -> None:
        """Quantized weights are no numbers that can be trained or converted."""
        settings = self.get("quantization_config")
        if settings is not None:
            method = str(settings.get("quant_method", "unknown") if isinstance(settings, dict) else settings)
            raise ValueError(
                f"{self.where}: the weights are quantized ({method.upper():.60}): only bf16, fp16 and fp32 weights can "
                "be used here, so take the release that is not quantized (its name is without -FP8, -AWQ, ..), "
                "or make a checkpoint of FP8 weights by editcaption convert hf-to-megatron"
            )

    def _needed(self, key: str, default: Any) -> Any:
        value = self.get(key, default)
        if value is None:
            raise ValueError(f"{self.where} lacks '{key}', which every Qwen3-VL config.json has")
        return value

    def _wrong(self, key: str, value: Any, expected: str) -> ValueError:
        return ValueError(f"{self.where}: '{key}' is {value!r:.60}, expected {expected}")
