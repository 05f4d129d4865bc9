"""Hugging Face folders: reading slices of their weights, and writing a folder that transformers loads."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editcaption_mega.data.text.side_files import CONFIG, SINGLE_WEIGHTS, WEIGHT_INDEX, SideFiles, weight_index
from editcaption_mega.files import write_atomically
from editcaption_mega.model import Architecture
from editcaption_mega.words import one_line

from .rules import Box, Rule, rules_for, unique_rules
from .tensor_file import write_tensors

_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
FOLDER_FILE_BYTES = 5 << 30  # the most in a weight file of a folder, unless a caller says otherwise
_DTYPES = ("F32", "BF16", "F16")  # names of safetensors


class FolderReader:
    """Reads canonical boxes out of a folder's safetensors files, touching only the slices that it needs.

    Opening it compares every tensor with config.json, and tells how experts are stored (`experts_in_out`); where the
    caller says that, somebody has done both, and no file is opened before it is read. Raises ValueError."""

    def __init__(
        self, folder: str | Path, architecture: Architecture | None = None, *, experts_in_out: bool | None = None
    ):
        self.folder = Path(folder)
        self.architecture = architecture or Architecture.from_folder(folder)
        self._file_of = self._locate()
        self._open: dict[str, Any] = {}  # handles of safetensors, which has no types
        self.experts_in_out = self._experts_in_out() if experts_in_out is None else experts_in_out
        self.rules = rules_for(self.architecture, experts_in_out=self.experts_in_out)
        if experts_in_out is None:
            self._check()

    def read(self, rule: Rule, box: Box | None = None) -> Tensor:
        """A box (None: all) of a rule's canonical tensor, in the dtype of the folder."""
        box = box or Box.whole(rule.shape)
        out: Tensor | None = None
        for piece in self.rules[rule.name].pieces:
            part = piece.box.intersect(box)
            if part is None:
                continue
            values = piece.to_canonical(self._slice(piece.name)[piece.region(part)], part)
            if out is None:
                out = torch.empty(box.shape, dtype=values.dtype)
            out[part.within(box)] = values
        assert out is not None, f"no piece of {rule.name} lies in {box}"
        return out

    def _locate(self) -> dict[str, str]:
        files = weight_index(self.folder)
        if files is not None:
            return files
        if (self.folder / SINGLE_WEIGHTS).is_file():
            with self._safe_open(SINGLE_WEIGHTS) as file:
                return dict.fromkeys(file.keys(), SINGLE_WEIGHTS)
        raise ValueError(f"{self.folder} holds no weights: expected {SINGLE_WEIGHTS} or {WEIGHT_INDEX}")

    def _experts_in_out(self) -> bool:
        """How the folder stores its experts. One of the two matrices is never square, and that one tells."""
        a, layer = self.architecture, "model.language_model.layers.0.mlp.experts."
        if a.experts is None or layer + "down_proj" not in self._file_of:
            return False
        ffn, hidden = a.experts.intermediate_size, a.hidden_size
        if ffn != hidden:
            return tuple(self._slice(layer + "down_proj").get_shape())[1:] == (ffn, hidden)
        return tuple(self._slice(layer + "gate_up_proj").get_shape())[1:] == (hidden, 2 * ffn)

    def _check(self) -> None:
        """Every tensor that the config asks for is there with its shape, as numbers, and none is left over."""
        wanted = {piece.name: piece.hf_shape for rule in self.rules.values() for piece in rule.pieces}
        for name, shape in wanted.items():
            if name not in self._file_of:
                mend = "; set tie_word_embeddings=true there if the embedding is the head" if name == _HEAD else ""
                raise ValueError(f"{self.folder} lacks the tensor {name}, which its config.json asks for{mend}")
            stored = self._slice(name)
            if stored.get_dtype() not in _DTYPES:
                raise ValueError(
                    f"{self.folder}: {name} is stored as {stored.get_dtype()} (quantized, FP8 and the like): only "
                    "bf16, fp16 and fp32 weights can be used here, so take the release that is not quantized"
                )
            stored_shape = tuple(stored.get_shape())
            if stored_shape != shape:
                raise ValueError(
                    f"{self.folder}: {name} has shape {list(stored_shape)}, config.json asks for {list(shape)}"
                )
        extra = set(self._file_of) - set(wanted)
        if self.architecture.tied_embeddings and _HEAD in extra:
            self._check_head()
            extra.remove(_HEAD)
        if extra:
            raise ValueError(f"{self.folder} holds {len(extra)} tensors that no Qwen3-VL model has, first {min(extra)}")

    def _check_head(self) -> None:
        """A tied model may carry its embedding a second time as head. Another head would be lost."""
        head, embedding = self._slice(_HEAD), self._slice(_EMBEDDING)
        same = head.get_shape() == embedding.get_shape()
        rows, columns = embedding.get_shape()
        step = max(1, (1 << 24) // columns)
        if not same or not all(torch.equal(head[i : i + step], embedding[i : i + step]) for i in range(0, rows, step)):
            raise ValueError(
                f"{self.folder}: config.json ties the head to the embedding (tie_word_embeddings), yet the folder "
                f"holds another {_HEAD}: set tie_word_embeddings=false in config.json to keep that head (transformers "
                "keeps it when it loads the folder), or remove the tensor"
            )

    def _slice(self, name: str) -> Any:
        file = self._file_of[name]
        if file not in self._open:
            self._open[file] = self._safe_open(file)
        try:
            return self._open[file].get_slice(name)
        except SafetensorError as error:
            raise ValueError(
                f"{self.folder / file} does not hold {name}, which {WEIGHT_INDEX} names: {one_line(str(error))}"
            ) from None

    def _safe_open(self, name: str) -> Any:
        try:
            return safe_open(self.folder / name, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.folder / name} is damaged or cannot be read: {one_line(str(error))}") from None


def with_dtype(files: SideFiles, values: Counter[torch.dtype]) -> SideFiles:
    """The side files of weights of which `values` counts the values by dtype: config.json says that of most."""
    dtype = str(values.most_common(1)[0][0]).removeprefix("torch.")
    config = files.json(CONFIG)
    parts = {name: config[name] for name in ("text_config", "vision_config")}
    keys = ("dtype", "torch_dtype")  # transformers 5 and 4
    parts = {name: {**part, **dict.fromkeys(part.keys() & keys, dtype)} for name, part in parts.items()}
    named = config.keys() & keys
    if not named and not any(part.keys() & keys for part in parts.values()):
        named = {keys[0]}
    return files.with_json(CONFIG, {**config, **parts, **dict.fromkeys(named, dtype)})


def hf_tensors(
    architecture: Architecture, read: Callable[[Rule], Tensor], *, experts_in_out: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Every Hugging Face tensor of the model, one at a time; `read` gives a rule's whole canonical tensor."""
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in unique_rules(rules_for(architecture, experts_in_out=experts_in_out)):
        canonical = read(rule)
        parts: dict[str, list[tuple[tuple[slice, ...], Tensor]]] = {}
        for piece in rule.pieces:
            shapes[piece.name] = piece.hf_shape
            values = piece.to_hf(canonical[piece.box.within(Box.whole(rule.shape))])
            parts.setdefault(piece.name, []).append((piece.region(piece.box), values))
        for name, regions in parts.items():
            out = torch.empty(shapes[name], dtype=canonical.dtype)
            for region, values in regions:
                out[region] = values
            yield name, out


def write_folder(
    tensors: Iterable[tuple[str, Tensor]], folder: str | Path, *, max_file_bytes: int = FOLDER_FILE_BYTES
) -> Counter[torch.dtype]:
    """Write tensors as sharded safetensors with their index -> how many values of each dtype there are.

    At most one file's tensors are in memory."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pending: dict[str, Tensor] = {}
    written: list[tuple[Path, list[str]]] = []
    pending_bytes = total = 0
    values: Counter[torch.dtype] = Counter()

    def flush() -> None:
        nonlocal pending, pending_bytes
        path = folder / f"part-{len(written) + 1:05d}.safetensors"
        write_tensors(path, pending, metadata={"format": "pt"})
        written.append((path, list(pending)))
        pending, pending_bytes = {}, 0

    for name, tensor in tensors:
        if pending and pending_bytes + tensor.nbytes > max_file_bytes:
            flush()
        pending[name] = tensor.contiguous()
        pending_bytes += tensor.nbytes
        total += tensor.nbytes
        values[tensor.dtype] += tensor.numel()
    flush()
    if len(written) == 1:
        written[0][0].rename(folder / SINGLE_WEIGHTS)
        return values
    weight_map = {}
    for number, (path, names) in enumerate(written, 1):
        final = f"model-{number:05d}-of-{len(written):05d}.safetensors"
        path.rename(folder / final)
        weight_map.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_atomically(folder / WEIGHT_INDEX, json.dumps(index, indent=2) + "\n")
    return values
