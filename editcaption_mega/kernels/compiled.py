"""The `cpu` and `cuda` backends: the compiled extension, called with addresses and sizes (see `backends.Backend`)."""

import warnings
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from editcaption_mega.settings.losses import SHAPES

from .contract import DETAILS_WIDTH, STATS_WIDTH, Final
from .preference_losses import PreferenceLossConfig

_problem = ""
EXTENSION: Any
try:
    # Compiled: a type checker sees no such module.
    from . import _C as EXTENSION  # type: ignore[attr-defined, no-redef]

    if getattr(EXTENSION, "LOSS_SHAPES", None) != SHAPES or not hasattr(EXTENSION, "rms_norm_parts"):
        _problem = "it was built from other sources"
except ModuleNotFoundError:  # not built: see setup.py
    EXTENSION = None
except ImportError as error:
    _problem = str(error)
if _problem:
    EXTENSION = None
    warnings.warn(
        f"editcaption_mega.kernels: the extension cannot be used here ({_problem}); run `make setup` again",
        RuntimeWarning,
        stacklevel=2,
    )

DTYPE_NAMES = {torch.float32: "FLOAT32", torch.bfloat16: "BFLOAT16", torch.float16: "FLOAT16"}


class Cpu:
    """The `Backend` in multithreaded C++, with the best instruction set that the processor has."""

    def is_available(self) -> bool:
        return EXTENSION is not None

    def parts(self, rows: int, cols: int) -> int:
        return 1

    def _run(self, kernel: str, device: torch.device, *arguments: Any) -> None:
        getattr(EXTENSION, kernel)(*arguments, torch.get_num_threads())

    def stats(
        self,
        logits: Tensor,
        targets: Tensor,
        vocab_offset: int,
        valid_cols: int,
        parts: int = 1,
        details: bool = False,
    ) -> Tensor:
        logits, targets = _row_major(logits), targets.contiguous()
        width = DETAILS_WIDTH if details else STATS_WIDTH
        out = torch.empty(parts, logits.shape[0], width, dtype=torch.float32, device=logits.device)
        matrix = _matrix(logits, vocab_offset, valid_cols)
        self._run("stats", logits.device, matrix, targets.data_ptr(), out.data_ptr(), width, parts)
        return out

    def finalize(
        self,
        stats: Tensor,
        vocab_size: int,
        bounds: Tensor | None = None,
        config: PreferenceLossConfig | None = None,
        reference: Tensor | None = None,
        margins: Tensor | None = None,
    ) -> Final:
        parts, rows, width = stats.shape
        sequences = 0 if bounds is None else bounds.shape[0] - 1
        pairs = 0 if config is None else sequences // 2

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, dtype=torch.float32, device=stats.device)

        final = Final(
            log_probs=empty(rows),
            lse=empty(rows, 2),
            details=empty(rows if width == DETAILS_WIDTH else 0, 3),
            sums=empty(sequences),
            loss=empty(pairs),
            rewards=empty(pairs, 2),
            row_scale=empty(0 if config is None else rows),
        )
        job = EXTENSION.Finalize(
            stats=stats.data_ptr(),
            parts=parts,
            rows=rows,
            width=width,
            vocab_size=vocab_size,
            bounds=_address(bounds),
            sequences=sequences,
            preference=None if config is None else _preference(config),
            reference=_address(reference),
            margin=_address(margins),
            **{name: tensor.data_ptr() for name, tensor in final._asdict().items()},
        )
        self._run("finalize", stats.device, job)
        return final

    def gradient(
        self,
        logits: Tensor,
        targets: Tensor,
        log_probs: Tensor,
        lse: Tensor,
        row_grad: Tensor,
        vocab_offset: int,
        valid_cols: int,
        *,
        in_place: bool,
    ) -> Tensor:
        source = _row_major(logits)
        grad = source if in_place else torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)
        inputs = [targets.contiguous(), log_probs.contiguous(), lse.contiguous(), row_grad.float().contiguous()]
        rows = EXTENSION.RowGradient(*(tensor.data_ptr() for tensor in inputs))
        matrix = _matrix(source, vocab_offset, valid_cols)
        self._run("backward", logits.device, matrix, rows, grad.data_ptr(), grad.stride(0))
        # Logits that weren't row-major were copied first; the caller's own take the result.
        return logits.copy_(grad) if in_place and source is not logits else grad


class Cuda(Cpu):
    """The same on an NVIDIA GPU, launched on PyTorch's current stream. Nothing here waits for the device.

    Tensors made contiguous for a launch may be freed right after it: PyTorch's allocator hands their memory out again
    in the order of the stream."""

    def is_available(self) -> bool:
        return EXTENSION is not None and bool(EXTENSION.CUDA_ARCHITECTURES) and torch.cuda.is_available()

    def parts(self, rows: int, cols: int) -> int:
        return int(EXTENSION.stats_parts_cuda(rows, cols))

    def _run(self, kernel: str, device: torch.device, *arguments: Any) -> None:
        launch(kernel, device, *arguments)


def launch(kernel: str, device: torch.device, *arguments: Any) -> None:
    """A kernel of the CUDA variant, on PyTorch's current stream."""
    queue = EXTENSION.Queue(device.index, torch.cuda.current_stream(device).cuda_stream)
    here = device.index == torch.cuda.current_device()  # as in a job, and entering it takes longer than the launch
    with nullcontext() if here else torch.cuda.device(device):
        getattr(EXTENSION, kernel + "_cuda")(*arguments, queue)


def _row_major(logits: Tensor) -> Tensor:
    """The logits with columns next to each other; rows may lie apart."""
    return logits if logits.stride(1) == 1 or logits.shape[1] == 1 else logits.contiguous()


def _matrix(logits: Tensor, vocab_offset: int, valid_cols: int) -> Any:
    rows, cols = logits.shape
    dtype = getattr(EXTENSION, DTYPE_NAMES[logits.dtype])
    return EXTENSION.Logits(logits.data_ptr(), dtype, rows, logits.stride(0), cols, valid_cols, vocab_offset)


def _preference(config: PreferenceLossConfig) -> Any:
    return EXTENSION.PreferenceLoss(
        shape=EXTENSION.LOSS_SHAPES.index(config.shape),
        per_token=config.per_token,
        beta=config.beta,
        label_smoothing=config.label_smoothing,
        margin=config.margin,
        nll_weight=config.nll_weight,
    )


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
