"""How near pictures and instruction are for a CLIP or SigLIP model, from a Hugging Face folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editcaption_mega.settings import check_model_folder

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class Embedder:
    """Embeddings of length 1, [n, width] fp32, of pictures and texts. Raises ValueError for another kind of model."""

    def __init__(self, folder: Path):
        from transformers import AutoModel, AutoProcessor

        check_model_folder(folder, "CLIP or SigLIP model")
        self.model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        if not hasattr(self.model, "get_image_features") or not hasattr(self.model, "get_text_features"):
            kind = type(self.model).__name__
            raise ValueError(f"{folder}: expected a model that embeds pictures and texts (CLIP, SigLIP), found {kind}")
        self.processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
        self._longest = self.model.config.text_config.max_position_embeddings

    def pictures(self, pictures: "Sequence[Image]") -> "Tensor":
        return self._embed("image", self.processor(images=list(pictures), return_tensors="pt"))

    def texts(self, texts: Sequence[str]) -> "Tensor":
        """Longer texts than the model takes are cut: its own limit, 64 or 77 tokens as a rule."""
        options = {"padding": "max_length", "truncation": True, "max_length": self._longest, "return_tensors": "pt"}
        return self._embed("text", self.processor(text=list(texts), **options))

    def _embed(self, kind: str, inputs: Any) -> "Tensor":
        import torch

        with torch.inference_mode():
            features = getattr(self.model, f"get_{kind}_features")(**inputs)
        features = getattr(features, "pooler_output", features)
        return torch.nn.functional.normalize(features.float(), dim=-1)


def embedding_columns(
    embedder: Embedder,
    sources: "Sequence[Image]",
    targets: "Sequence[Image]",
    instructions: Sequence[str | None],
    captions: Sequence[tuple[str, str] | None],
) -> list[dict[str, float]]:
    """The columns of some pairs.

    image_similarity    cosine of both pictures
    text_gain           by how much nearer the instruction is to the target than to the source; where there is one
    directional         cosine of the pictures' change and the captions' change (StyleGAN-NADA, InstructPix2Pix), where
                        there are captions of both pictures; 0 where one of the two does not change"""
    import torch

    source, target = embedder.pictures(sources), embedder.pictures(targets)
    rows: list[dict[str, float]] = [
        {"image_similarity": round(value, 5)} for value in (source * target).sum(1).tolist()
    ]
    told = [i for i, text in enumerate(instructions) if text]
    if told:
        text = embedder.texts([instructions[i] or "" for i in told])
        gain = (text * (target[told] - source[told])).sum(1)
        for i, value in zip(told, gain.tolist(), strict=True):
            rows[i]["text_gain"] = round(value, 5)
    described = [(i, *both) for i, both in enumerate(captions) if both]
    if described:
        at, before, after = (list(values) for values in zip(*described, strict=True))
        change = embedder.texts(after) - embedder.texts(before)
        moved = torch.nn.functional.cosine_similarity(target[at] - source[at], change)
        for i, value in zip(at, moved.tolist(), strict=True):
            rows[i]["directional"] = round(value, 5)
    return rows
