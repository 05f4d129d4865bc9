"""Blind execution: an editor applies each instruction to the source, and the result is compared with the target.

The paper names this as missing. It measures what the rubric's clarity asks for: whether the edit can be made by
somebody who never saw the target. The editor's own skill is in the numbers too, so they compare models under one
editor; `copy` (the untouched source compared with the target) is what doing nothing scores."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from editcaption_mega.data.images import ImageError, decode_image
from editcaption_mega.inference.endpoint import Endpoint
from editcaption_mega.inference.image_edits import MAX_PIXELS, Edit, edit_pictures
from editcaption_mega.records import Instruction
from editcaption_mega.records.evaluation import Row as Record

from .benchmarks import Benchmark
from .rows import write_rows
from .statistics import bootstrap_interval
from .table_forms import Cell, Column, Row, Table

COPY = "copy"  # the name under which doing nothing is scored
Measure = Callable[[Tensor, Tensor], float]


class Execution(Record):
    """How near to the target an instruction led: measure -> value. Without them, why."""

    benchmark: str
    id: str
    model: str
    editor: str
    measures: dict[str, float] | None = None
    reason: str | None = None


def execute(
    benchmark: Benchmark,
    instructions: Mapping[str, Mapping[str, Instruction]],
    editor: Endpoint,
    output: Path,
    measures: Mapping[str, Measure],
    *,
    size: str = "",
    max_pixels: int = MAX_PIXELS,
    progress: Callable[..., Iterable] = lambda items, *_: items,
) -> dict[str, list[Execution]]:
    """model -> one row per pair in the benchmark's order, and the same under `copy`.

    Pictures and rows are kept under OUTPUT/executions/MODEL/BENCHMARK. Raises ValueError for ids that do not fit."""
    if COPY in instructions:
        raise ValueError(f"a model is named {COPY!r}, which is the name of doing nothing: rename it")
    found: dict[str, list[Execution]] = {}
    for model, rows in instructions.items():
        benchmark.check_join(rows, f"the instructions of {model}")
        folder = output / "executions" / model / benchmark.name
        edits = _edits(benchmark, rows)
        count = sum(bool((row.instruction or "").strip()) for row in rows.values())
        done = edit_pictures(
            editor,
            edits,
            folder,
            size=size,
            max_pixels=max_pixels,
            log=output / "cache",
            progress=progress,
            total=count,
        )
        made = {one.id: one for one in done}
        found[model] = []
        for item in benchmark:
            who = {"benchmark": benchmark.name, "id": item.pair.id, "model": model, "editor": editor.model}
            one = made.get(item.pair.id)
            if one is None:
                row = Execution(**who, reason=rows[item.pair.id].reason or "the instruction is empty")
            elif one.path is None:
                row = Execution(**who, reason=one.reason)
            else:
                row = _compared(who, one.path.read_bytes(), item.target, measures)
            found[model].append(row)
        write_rows(executions_path(output, model, benchmark.name), found[model])
    who = {"benchmark": benchmark.name, "model": COPY, "editor": COPY}
    found[COPY] = [_compared(who | {"id": item.pair.id}, item.source, item.target, measures) for item in benchmark]
    write_rows(executions_path(output, COPY, benchmark.name), found[COPY])
    return found


def executions_path(output: Path, model: str, benchmark: str) -> Path:
    return output / "executions" / model / f"{benchmark}.jsonl"


def _edits(benchmark: Benchmark, rows: Mapping[str, Instruction]) -> Iterator[Edit]:
    for item in benchmark:
        text = (rows[item.pair.id].instruction or "").strip()
        if text:
            yield Edit(item.pair.id, item.source, text)


def _compared(who: dict, result: bytes, target: bytes, measures: Mapping[str, Measure]) -> Execution:
    try:
        return Execution(**who, measures=compare(result, target, measures))
    except ImageError as error:
        return Execution(**who, reason=str(error))


def compare(result: bytes, target: bytes, measures: Mapping[str, Measure]) -> dict[str, float]:
    """Every measure of the result against the target, both upright and on white; the result is resized to the target's
    size. Raises ImageError for bytes that are no picture."""
    wanted, got = decode_image(target, where="the target"), decode_image(result, where="the result")
    if got.size != wanted.size:
        got = got.resize(wanted.size, Image.Resampling.LANCZOS)
    pair = _tensor(got), _tensor(wanted)
    return {name: measure(*pair) for name, measure in measures.items()}


def _tensor(image: Image.Image) -> Tensor:
    """[3, height, width] fp32 in 0 .. 1."""
    data = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return data.view(image.height, image.width, 3).permute(2, 0, 1).float() / 255


# ---- measures of two pictures [3, height, width] in 0 .. 1 ----------------------------------------------------------


def ssim(a: Tensor, b: Tensor) -> float:
    """Structural similarity of the luminance (Wang et al. 2004): 11 x 11 Gaussian of sigma 1.5, inside only, 1 = equal.

    Pictures smaller than the window are compared by one window of their own size."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(3, 1, 1)
    x, y = ((picture.double() * weights).sum(0)[None, None] for picture in (a, b))
    height, width = x.shape[-2:]
    kernel = _gaussian(min(11, height))[:, None] * _gaussian(min(11, width))[None, :]

    def mean(values: Tensor) -> Tensor:
        return torch.nn.functional.conv2d(values, kernel[None, None])

    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    values = ((2 * mx * my + c1) * (2 * cov + c2)) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return values.mean().item()


def _gaussian(size: int) -> Tensor:
    x = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    values = torch.exp(-(x**2) / (2 * 1.5**2))
    return values / values.sum()


class ClipSimilarity:
    """Cosine of the CLIP embeddings of two pictures, from a Hugging Face folder of a CLIP model."""

    def __init__(self, folder: str | Path):
        from transformers import AutoImageProcessor, CLIPModel

        if not (Path(folder) / "config.json").is_file():
            raise ValueError(f"{folder}: expected the folder of a CLIP model, found no config.json")
        self.model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> float:
        pixels = self.processor(images=[a, b], return_tensors="pt", do_rescale=False)["pixel_values"]
        features = self.model.vision_model(pixel_values=pixels).pooler_output
        features = self.model.visual_projection(features)
        return torch.nn.functional.cosine_similarity(features[:1], features[1:]).item()


def lpips_distance() -> Measure:
    """Learned perceptual distance (Zhang et al. 2018), 0 = equal. Raises ValueError where `lpips` is not installed."""
    try:
        import lpips
    except ImportError:
        raise ValueError(
            "the measure lpips needs the package lpips, which is not installed: pip install lpips"
        ) from None
    network = lpips.LPIPS(net="alex", verbose=False).eval()

    @torch.inference_mode()
    def distance(a: Tensor, b: Tensor) -> float:
        return network(a[None] * 2 - 1, b[None] * 2 - 1).item()

    return distance


def measures_of(names: Sequence[str], clip: str = "") -> dict[str, Measure]:
    """The measures by name: ssim, clip (needs a folder) and lpips. Raises ValueError for what is not there."""
    made: dict[str, Measure] = {}
    for name in names:
        if name == "ssim":
            made[name] = ssim
        elif name == "lpips":
            made[name] = lpips_distance()
        elif name == "clip":
            if not clip:
                raise ValueError("the measure clip needs the folder of a CLIP model: set editor.clip")
            made[name] = ClipSimilarity(clip)
        else:
            raise ValueError(f"measure is {name!r}, expected one of ssim, clip, lpips")
    return made


@dataclass(frozen=True)
class ExecutionMean:
    """A model's mean of one measure with its 95 % interval, over the pairs that were executed."""

    model: str
    measure: str
    mean: float
    interval: tuple[float, float]
    executed: int
    failed: int


def execution_table(found: Mapping[str, Mapping[str, Sequence[Execution]]], seed: int = 0) -> Table | None:
    """benchmark -> model -> executions, as a table of the report; None without any."""
    if not found:
        return None
    rows = []
    for benchmark, by_model in found.items():
        for one in summarise(by_model, seed):
            mean = Cell(one.mean, interval=one.interval, digits=4)
            cells = (Cell(benchmark), Cell(one.model), Cell(one.measure), mean, Cell(one.executed), Cell(one.failed))
            rows.append(Row(cells))
    columns = tuple(Column(name, is_label=True) for name in ("Test set", "Instructions of", "Measure"))
    columns += tuple(Column(name) for name in ("Result against target", "Executed", "Not executed"))
    notes = (
        f"An image editor executed each instruction on the source, without the target. {COPY}: the untouched source.",
        "The editor's own skill is in these numbers: compare models under one editor.",
    )
    return Table("execution", "Blind execution", columns, tuple(rows), notes)


def summarise(found: Mapping[str, Sequence[Execution]], seed: int = 0) -> list[ExecutionMean]:
    rows = []
    for model, executions in found.items():
        done = [row.measures for row in executions if row.measures is not None]
        for measure in done[0] if done else ():
            values = [one[measure] for one in done]
            rows.append(
                ExecutionMean(
                    model, measure, sum(values) / len(values), bootstrap_interval(values, seed=seed), len(done),
                    len(executions) - len(done),
                )
            )  # fmt: skip
    return rows
