"""Hugging Face folders: reading slices of their weights."""

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editcaption_mega.data.text.side_files import CONFIG, SINGLE_WEIGHTS, WEIGHT_INDEX, SideFiles, weight_index
from editcaption_mega.kernels.transposes import copy_values
from editcaption_mega.model import Architecture
from editcaption_mega.words import one_line

from . import fp8
from .rules import Box, Piece, Rule, Shape, rules_for
from .tensor_file import MappedTensors, in_own_memory

_HEAD, _EMBEDDING = "lm_head.weight", "model.language_model.embed_tokens.weight"
FOLDER_FILE_BYTES = 5 << 30  # the most in a weight file of a folder, unless a caller says otherwise
_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # by the names of safetensors
_APART = "model.language_model.layers.0.mlp.experts.0.down_proj.weight"


class FolderReader:
    """Reads canonical boxes out of a folder's safetensors files, touching only the slices that it needs.

    Opening it compares every tensor with config.json, and tells how experts are stored (`experts_in_out`); where the
    caller says that, somebody has done both, and no file is opened before it is read.
    fp8_dtype: what FP8 weights become, by their scales; without it they are refused. Raises ValueError."""

    def __init__(
        self,
        folder: str | Path,
        architecture: Architecture | None = None,
        *,
        experts_in_out: bool | None = None,
        fp8_dtype: torch.dtype | None = None,
    ):
        self.folder, self.fp8_dtype = Path(folder), fp8_dtype
        self._fp8: fp8.Fp8 | None = None
        if fp8_dtype is not None:
            architecture, self._fp8 = architecture_and_fp8(folder)
        self.architecture = architecture or Architecture.from_folder(folder)
        self._file_of = self._locate()
        self._open: dict[str, Any] = {}  # handles of safetensors, which has no types
        self._mapped: dict[str, MappedTensors] = {}
        self.experts_in_out = self._experts_in_out() if experts_in_out is None else experts_in_out
        apart = fp8_dtype is not None and self.architecture.experts is not None and _APART in self._file_of
        self.rules = rules_for(self.architecture, experts_in_out=self.experts_in_out, experts_apart=apart)
        if experts_in_out is None:
            self._check()

    @property
    def weight_files(self) -> list[Path]:
        """The files that hold the weights."""
        return [self.folder / name for name in sorted(set(self._file_of.values()))]

    def files_of(self, rule: Rule) -> list[Path]:
        """The files that hold a rule's tensor."""
        return sorted({self.folder / self._file_of[piece.name] for piece in self.rules[rule.name].pieces})

    def dtype(self, rule: Rule) -> torch.dtype:
        """That of a rule's canonical tensor."""
        stored = self._slice(self.rules[rule.name].pieces[0].name).get_dtype()
        return self.fp8_dtype if stored == fp8.STORED and self.fp8_dtype else _DTYPES[stored]

    def read(self, rule: Rule, box: Box | None = None) -> Tensor:
        """A box (None: all) of a rule's canonical tensor, in the dtype of the folder."""
        return in_own_memory(self.view(rule, box))

    def view(self, rule: Rule, box: Box | None = None) -> Tensor:
        """As `read`; where one piece has the box, its values in the file: for who does no more than copy or compare
        them, since they change with the file and are aligned to 8 bytes."""
        box = box or Box.whole(rule.shape)
        out: Tensor | None = None
        for piece in self.rules[rule.name].pieces:
            part = piece.box.intersect(box)
            if part is None:
                continue
            values = piece.to_canonical(self._values(piece, piece.region(part)), part)
            if part.shape == box.shape:
                return values
            if out is None:
                out = torch.empty(box.shape, dtype=values.dtype)
            copy_values(out[part.within(box)], values)
        assert out is not None, f"no piece of {rule.name} lies in {box}"
        return out

    def _values(self, piece: Piece, region: tuple[slice, ...]) -> Tensor:
        values = self._tensor(piece.name)[region]
        if values.dtype != torch.float8_e4m3fn:
            return values
        scale = fp8.scale_of(piece.name, self._file_of)
        assert self._fp8 and self.fp8_dtype and scale, "the folder was checked"
        return self._fp8.numbers(values, self._tensor(scale), piece.hf_shape, region).to(self.fp8_dtype)

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
        extra = set(self._file_of) - set(wanted)
        for name, shape in wanted.items():
            if name not in self._file_of:
                mend = "; set tie_word_embeddings=true there if the embedding is the head" if name == _HEAD else ""
                raise ValueError(f"{self.folder} lacks the tensor {name}, which its config.json asks for{mend}")
            stored = self._slice(name)
            if stored.get_dtype() not in _DTYPES:
                extra.discard(self._check_scale(name, shape, stored.get_dtype()))
            stored_shape = tuple(stored.get_shape())
            if stored_shape != shape:
                raise ValueError(
                    f"{self.folder}: {name} has shape {list(stored_shape)}, config.json asks for {list(shape)}"
                )
        if self._fp8:
            extra -= fp8.of_activations(extra)
        if self.architecture.tied_embeddings and _HEAD in extra:
            self._check_head()
            extra.remove(_HEAD)
        if extra:
            raise ValueError(f"{self.folder} holds {len(extra)} tensors that no Qwen3-VL model has, first {min(extra)}")

    def _check_scale(self, name: str, shape: Shape, dtype: str) -> str:
        """The name of the scale of a tensor that is no plain number, if it can become one."""
        if self._fp8 is None or dtype != fp8.STORED:
            raise ValueError(
                f"{self.folder}: {name} is stored as {dtype} (quantized, FP8 and the like): only "
                f"bf16, fp16 and fp32 weights can be used here, so {fp8.MEND}"
            )
        scale = fp8.scale_of(name, self._file_of)
        if scale is None:
            raise ValueError(
                f"{self.folder}: {name} is stored as FP8, and the scale of its values is missing (expected "
                f"{name}_scale_inv or {name}_scale): copy the folder again from where it came"
            )
        held = self._slice(scale)
        if held.get_dtype() not in _DTYPES:
            raise ValueError(
                f"{self.folder}: {scale} is stored as {held.get_dtype()}, which cannot be used: {fp8.MEND}"
            )
        try:
            self._fp8.check_scale(name, shape, tuple(held.get_shape()))
        except ValueError as error:
            raise ValueError(f"{self.folder}: {error}") from None
        return scale

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

    def _tensor(self, name: str) -> Tensor:
        """A whole tensor of the folder, as a view of its file."""
        file = self._file_of[name]
        if file not in self._mapped:
            self._slice(name)  # safetensors has checked the file then
            self._mapped[file] = MappedTensors(self.folder / file)
        return self._mapped[file][name]

    def _safe_open(self, name: str) -> Any:
        try:
            return safe_open(self.folder / name, framework="pt", device="cpu")
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{self.folder / name} is damaged or cannot be read: {one_line(str(error))}") from None


def architecture_and_fp8(folder: str | Path) -> tuple[Architecture, fp8.Fp8 | None]:
    """The model of a folder whose weights may be FP8, and what its config.json says of them. Raises ValueError."""
    files = SideFiles.read(folder).require(CONFIG, "the model's configuration")
    config, where = files.json(CONFIG), str(files.folder / CONFIG)
    quantization = fp8.Fp8.of_config(config, where)
    return Architecture.from_config(fp8.without_quantization(config), where=where), quantization


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
