"""How near one picture is to another: SSIM, and CLIP and LPIPS where their weights or package are there."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.settings import check_model_folder

if TYPE_CHECKING:
    from torch import Tensor

# PyTorch is imported where a measure is taken: a run without an editor need not wait for it.
Measure = Callable[["Tensor", "Tensor"], float]


def measure_images(result: bytes, target: bytes, measures: Mapping[str, Measure]) -> dict[str, float]:
    """Every measure of the result against the target, both upright and on white; the result is resized to the target's
    size. Raises ImageError for bytes that are no picture."""
    wanted, got = decode_image(target, where="the target"), decode_image(result, where="the result")
    if got.size != wanted.size:
        got = got.resize(wanted.size, Image.Resampling.LANCZOS)
    pair = _tensor(got), _tensor(wanted)
    return {name: measure(*pair) for name, measure in measures.items()}


def _tensor(image: Image.Image) -> "Tensor":
    """[3, height, width] fp32 in 0 .. 1."""
    import torch

    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


def ssim(a: "Tensor", b: "Tensor") -> float:
    """Structural similarity of the luminance (Wang et al. 2004): 11 x 11 Gaussian of sigma 1.5, inside only, 1 = equal.

    Pictures smaller than the window are compared by one window of their own size."""
    import torch

    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    x, y = ((picture.double() * weights).sum(0)[None, None] for picture in (a, b))
    height, width = x.shape[-2:]
    down, across = _gaussian(min(11, height))[None, None, :, None], _gaussian(min(11, width))[None, None, None, :]

    def mean(values: "Tensor") -> "Tensor":
        return torch.nn.functional.conv2d(torch.nn.functional.conv2d(values, down), across)

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    values = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return values.mean().item()


def _gaussian(size: int) -> "Tensor":
    import torch

    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    values = torch.exp(-(x**2) / (2 * 1.5**2))
    return values / values.sum()


class ClipSimilarity:
    """Cosine of the CLIP embeddings of two pictures, from a Hugging Face folder of a CLIP model."""

    def __init__(self, folder: str | Path):
        from transformers import AutoImageProcessor, CLIPModel

        check_model_folder(Path(folder), "CLIP model")
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    def __call__(self, a: "Tensor", b: "Tensor") -> float:
        import torch

        pixels = self.processor(images=[a, b], return_tensors="pt", do_rescale=False)["pixel_values"]
        with torch.inference_mode():
            features = self.model.vision_model(pixel_values=pixels).pooler_output
            features = self.model.visual_projection(features)
        return torch.nn.functional.cosine_similarity(features[:1], features[1:]).item()


def lpips_distance() -> Measure:
    """Learned perceptual distance (Zhang et al. 2018), 0 = equal. Raises ValueError where `lpips` is not installed."""
    try:
        import lpips
        import torch
    except ImportError:
        raise ValueError(
            "the measure lpips needs the package lpips, which is not installed: pip install lpips"
        ) from None
    network = lpips.LPIPS(net="alex", verbose=False).eval()

    @torch.inference_mode()
    def distance(a: "Tensor", b: "Tensor") -> float:
        return float(network(a[None] * 2 - 1, b[None] * 2 - 1))

    return distance


def _clip_similarity(clip: str) -> Measure:
    if not clip:
        raise ValueError("the measure clip needs the folder of a CLIP model: set editor.clip")
    return ClipSimilarity(clip)


# The measures that `editor.measures` may name; each is made of `editor.clip`, which most have no use for.
MEASURES: dict[str, Callable[[str], Measure]] = {
    "ssim": lambda clip: ssim,
    "clip": _clip_similarity,
    "lpips": lambda clip: lpips_distance(),
}


def measures_of(names: Sequence[str], clip: str = "") -> dict[str, Measure]:
    """The measures by name. clip: folder of a CLIP model, which the measure of that name needs. Raises ValueError for
    what is not there."""
    for name in names:
        if name not in MEASURES:
            raise ValueError(f"measure is {name!r}, expected one of {', '.join(MEASURES)}")
    return {name: MEASURES[name](clip) for name in names}
