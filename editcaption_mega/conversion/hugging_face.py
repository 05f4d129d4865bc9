"""Hugging Face folders: reading slices of their weights, and writing a folder that transformers loads."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editcaption_mega.model import Architecture

from .rules import Box, Rule, rules_for, unique_rules
from .tensor_file import write_tensors

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# What a folder holds beside its weights; copied from the folder that training started from.
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
)


class FolderReader:
    """Reads canonical boxes out of a folder's safetensors files, touching only the slices that it needs."""

    def __init__(self, folder: str | Path, architecture: Architecture | None = None):
        self.folder = Path(folder)
        self.architecture = architecture or Architecture.from_folder(folder)
        self._file_of = self._locate()
        self._open: dict[str, object] = {}
        self.experts_in_out = self._experts_in_out()
        self.rules = rules_for(self.architecture, experts_in_out=self.experts_in_out)
        self._check()

    def read(self, rule: Rule, box: Box | None = None) -> Tensor:
        """A box (None: all) of a rule's canonical tensor, in the dtype of the folder."""
        box = box or Box.whole(rule.shape)
        out = None
        for piece in self.rules[rule.name].pieces:
            part = piece.box.intersect(box)
            if part is None:
                continue
            values = piece.to_canonical(self._slice(piece.name)[piece.region(part)], part)
            if out is None:
                out = torch.empty(box.shape, dtype=values.dtype)
            out[part.within(box)] = values
        return out

    def _locate(self) -> dict[str, str]:
        if (self.folder / _INDEX).is_file():
            files = json.loads((self.folder / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            missing = sorted({name for name in files.values() if not (self.folder / name).is_file()})
            if missing:
                raise ValueError(f"{self.folder} lacks {missing[0]}, which its {_INDEX} names: the copy is incomplete")
            return files
        if (self.folder / _SINGLE).is_file():
            with self._safe_open(_SINGLE) as file:
                return dict.fromkeys(file.keys(), _SINGLE)
        raise ValueError(f"{self.folder} holds no weights: expected {_SINGLE} or {_INDEX}")

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
        """Every tensor that the config asks for is there with its shape, and none is left over."""
        wanted = {piece.name: piece.hf_shape for rule in self.rules.values() for piece in rule.pieces}
        for name, shape in wanted.items():
            if name not in self._file_of:
                raise ValueError(f"{self.folder} lacks the tensor {name}, which its config.json asks for")
            found = tuple(self._slice(name).get_shape())
            if found != shape:
                raise ValueError(f"{self.folder}: {name} has shape {list(found)}, config.json asks for {list(shape)}")
        # Tied models may carry a copy of the embedding as lm_head.
        extra = sorted(
            set(self._file_of) - set(wanted) - ({"lm_head.weight"} if self.architecture.tied_embeddings else set())
        )
        if extra:
            raise ValueError(f"{self.folder} holds {len(extra)} tensors that no Qwen3-VL model has, first {extra[0]}")

    def _slice(self, name: str):
        file = self._file_of[name]
        if file not in self._open:
            self._open[file] = self._safe_open(file)
        return self._open[file].get_slice(name)

    def _safe_open(self, name: str):
        try:
            return safe_open(self.folder / name, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.folder / name} is damaged or cannot be read: {error}") from None


def expert_layout(folder: str | Path, architecture: Architecture) -> bool:
    """Whether the folder stores experts as [expert, in, out]; False for a folder without weights or experts."""
    if not any((Path(folder) / name).is_file() for name in (_INDEX, _SINGLE)):
        return False
    return FolderReader(folder, architecture).experts_in_out


def copy_side_files(source: str | Path, target: str | Path) -> None:
    """Copy config, tokenizer and processor files, so that a checkpoint can become a whole folder again."""
    target = Path(target)
    target.mkdir(parents=True, exist_ok=True)
    for name in SIDE_FILES:
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, target / name)


def hf_tensors(
    architecture: Architecture, read: Callable[[Rule], Tensor], *, experts_in_out: bool = False
) -> Iterator[tuple[str, Tensor]]:
    """Every Hugging Face tensor of the model, one at a time; `read` gives a rule's whole canonical tensor."""
    shapes: dict[str, tuple[int, ...]] = {}
    for rule in unique_rules(rules_for(architecture, experts_in_out=experts_in_out)):
        canonical = read(rule)
        parts: dict[str, list] = {}
        for piece in rule.pieces:
            shapes[piece.name] = piece.hf_shape
            values = piece.to_hf(canonical[piece.box.within(Box.whole(rule.shape))])
            parts.setdefault(piece.name, []).append((piece.region(piece.box), values))
        for name, regions in parts.items():
            out = torch.empty(shapes[name], dtype=canonical.dtype)
            for region, values in regions:
                out[region] = values
            yield name, out


def write_folder(tensors: Iterator[tuple[str, Tensor]], folder: str | Path, *, max_file_bytes: int = 5 << 30) -> None:
    """Write tensors as sharded safetensors with their index. At most one file's tensors are in memory."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pending: dict[str, Tensor] = {}
    written: list[tuple[Path, list[str]]] = []
    pending_bytes = total = 0

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
    flush()
    if len(written) == 1:
        written[0][0].rename(folder / _SINGLE)
        return
    weight_map = {}
    for number, (path, names) in enumerate(written, 1):
        final = f"model-{number:05d}-of-{len(written):05d}.safetensors"
        path.rename(folder / final)
        weight_map.update(dict.fromkeys(names, final))
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
