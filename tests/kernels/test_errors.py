"""What the operators refuse: one table, the same words from every backend."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from editcaption_mega.kernels import (
    PreferenceLossConfig,
    available_backends,
    backends,
    compiled,
    linear_log_probs,
    linear_preference,
    log_probs,
    preference,
    require_cuda_variant,
    sequence_sums,
)

LOGITS, HIDDEN, WEIGHT = torch.zeros(3, 8), torch.zeros(3, 4), torch.zeros(8, 4)
TARGETS = torch.tensor([0, 7, 3])
META = torch.device("meta")
BOUNDS, REFERENCE, DPO = torch.tensor([0, 1, 3]), torch.zeros(2), PreferenceLossConfig()


def pairs(bounds=BOUNDS, reference=REFERENCE, config=DPO, margin=None):
    """Arguments of `preference` with one of them replaced."""
    return LOGITS, TARGETS, bounds, reference, config, margin


TABLE = {
    "logits not a tensor": (log_probs, ([[0.0]], TARGETS), "`logits` must be a tensor, found list"),
    "logits integers": (log_probs, (LOGITS.long(), TARGETS), "`logits` must be float32.*found torch.int64"),
    "logits double": (log_probs, (LOGITS.double(), TARGETS), "`logits` must be float32.*found torch.float64"),
    "logits 3-D": (log_probs, (LOGITS[None], TARGETS), r"`logits` must have 2 dimensions .*found \[1, 3, 8\]"),
    "logits empty": (log_probs, (LOGITS[:, :0], TARGETS), "`logits` must have at least one column"),
    "targets int32": (log_probs, (LOGITS, TARGETS.int()), "`targets` must be int64, found torch.int32"),
    "targets too few": (log_probs, (LOGITS, TARGETS[:2]), r"`targets` must be \[3\].*found \[2\]"),
    "targets 2-D": (log_probs, (LOGITS, TARGETS[:, None]), r"`targets` must be \[3\].*found \[3, 1\]"),
    "targets too large": (log_probs, (LOGITS, TARGETS + 1), r"`targets` must lie in \[0, 8\).*found 8"),
    "targets negative": (log_probs, (LOGITS, TARGETS - 100), r"`targets` must lie in \[0, 8\).*found -100"),
    "targets elsewhere": (log_probs, (LOGITS, TARGETS.to(META)), "`targets` must be on cpu .*found meta"),
    "hidden 1-D": (linear_log_probs, (HIDDEN[0], WEIGHT, TARGETS), r"`hidden` must have 2 dimensions .*found \[4\]"),
    "hidden double": (linear_log_probs, (HIDDEN.double(), WEIGHT, TARGETS), "`hidden` must be float32.*float64"),
    "weight dtype": (
        linear_log_probs,
        (HIDDEN, WEIGHT.bfloat16(), TARGETS),
        "`weight` must be torch.float32.*bfloat16",
    ),
    "weight transposed": (linear_log_probs, (HIDDEN, WEIGHT.T, TARGETS), r"`weight` must be \[V, 4\].*found \[4, 8\]"),
    "weight elsewhere": (linear_log_probs, (HIDDEN, WEIGHT.to(META), TARGETS), "`weight` must be on cpu .*found meta"),
    "linear target": (linear_log_probs, (HIDDEN, WEIGHT, TARGETS + 1), r"`targets` must lie in \[0, 8\).*found 8"),
    "bounds not a tensor": (preference, pairs([0, 1, 3]), "`cu_seqlens` must be a tensor, found list"),
    "bounds floats": (preference, pairs(BOUNDS.float()), "`cu_seqlens` must be int32 or int64, found torch.float32"),
    "bounds 2-D": (preference, pairs(BOUNDS[None]), r"`cu_seqlens` must be \[S \+ 1\].*found \[1, 3\]"),
    "bounds empty": (preference, pairs(BOUNDS[:0]), r"`cu_seqlens` must be \[S \+ 1\].*found \[0\]"),
    "bounds elsewhere": (preference, pairs(BOUNDS.to(META)), "`cu_seqlens` must be on cpu .*found meta"),
    "bounds start late": (preference, pairs(BOUNDS.clamp(min=1)), "`cu_seqlens` must start at 0, found 1"),
    "bounds end early": (preference, pairs(torch.tensor([0, 1, 2])), "`cu_seqlens` must end at 3.*found 2"),
    "bounds end late": (preference, pairs(torch.tensor([0, 1, 4])), "`cu_seqlens` must end at 3.*found 4"),
    "bounds fall": (
        preference,
        pairs(torch.tensor([0, 2, 1, 2, 3]), torch.zeros(4)),
        "`cu_seqlens` must never fall.*2",
    ),
    "bounds odd": (preference, pairs(torch.tensor([0, 3])), "`cu_seqlens` must bound pairs.*found 1"),
    "empty answer": (preference, pairs(torch.tensor([0, 3, 3])), "`cu_seqlens` must give each answer at least one"),
    "linear bounds": (
        linear_preference,
        (HIDDEN, WEIGHT, TARGETS, torch.tensor([0, 1, 2]), REFERENCE, DPO),
        "`cu_seqlens` must end at 3",
    ),
    "reference missing": (preference, pairs(reference=None), r"`reference` must be the answers' log-probs \[2\]"),
    "reference too many": (
        preference,
        pairs(config=PreferenceLossConfig("simpo")),
        "`reference` must be None for simpo",
    ),
    "reference shape": (preference, pairs(reference=torch.zeros(3)), r"`reference` must be a float32 tensor \[2\]"),
    "reference dtype": (preference, pairs(reference=REFERENCE.double()), "`reference` must be a float32.*float64"),
    "reference trained": (
        preference,
        pairs(reference=torch.zeros(2, requires_grad=True)),
        "`reference` must not require a gradient",
    ),
    "margin shape": (preference, pairs(margin=torch.zeros(2)), r"`margin` must be a float32 tensor \[1\], found"),
    "config": (preference, pairs(config="sigmoid"), "`config` must be a PreferenceLossConfig, found str"),
    "linear rows": (linear_log_probs, (HIDDEN[:1], WEIGHT, TARGETS), r"`targets` must be \[1\].*`hidden`.*found \[3\]"),
}


@pytest.mark.parametrize("case", TABLE)
def test_refusals(backend, case):
    operator, arguments, message = TABLE[case]
    with pytest.raises(ValueError, match=f"^{operator.__name__}: {message}"):
        operator(*arguments, backend=backend)


def test_sums_over_bounds_that_do_not_fit(backend):
    for bounds, message in (([0, 1, 2], "must end at 3"), ([1, 3], "must start at 0"), ([0, 2, 1, 3], "never fall")):
        with pytest.raises(
            ValueError, match=f"^sequence_sums: `cu_seqlens` {'must ' * message.startswith('n')}{message}"
        ):
            sequence_sums(torch.zeros(3), torch.tensor(bounds))
    with pytest.raises(ValueError, match="`log_probs` must be a float32 tensor"):
        sequence_sums(torch.zeros(3, dtype=torch.float64), BOUNDS)


def test_vocab_size(backend):
    for size in (0, 9):
        with pytest.raises(ValueError, match=rf"`vocab_size` must lie in \[1, 8\].*found {size}"):
            linear_log_probs(HIDDEN, WEIGHT, TARGETS, backend=backend, vocab_size=size)
    with pytest.raises(ValueError, match=r"`targets` must lie in \[0, 7\)"):
        linear_log_probs(HIDDEN, WEIGHT, TARGETS, backend=backend, vocab_size=7)


def test_backend_names():
    with pytest.raises(ValueError, match="`backend` must be \"auto\" or one of .*found 'fast'"):
        log_probs(LOGITS, TARGETS, backend="fast")
    if "cuda" not in available_backends():  # whether or not the extension has the CUDA variant
        with pytest.raises(ValueError, match="`backend` is 'cuda', which this installation lacks"):
            log_probs(LOGITS, TARGETS, backend="cuda")
    if "cpu" in available_backends():
        with pytest.raises(ValueError, match="`backend` 'cpu' needs tensors on cpu, found cuda"):
            backends.choose("cpu", "cuda", "log_probs")
    assert set(available_backends()) <= {"cuda", "cpu", "torch"} and available_backends()[-1] == "torch"


def test_a_missing_extension_is_said_once(monkeypatch):
    monkeypatch.setattr(compiled, "EXTENSION", None)
    backends._warn_once.cache_clear()
    assert available_backends() == ("torch",)
    with pytest.warns(RuntimeWarning, match="the extension isn't built.*make setup") as caught:
        for _ in range(3):
            log_probs(LOGITS, TARGETS)
    assert len(caught) == 1
    backends._warn_once.cache_clear()


@pytest.mark.parametrize(
    ("extension", "built"),
    [(None, "was not built"), (SimpleNamespace(CUDA_ARCHITECTURES=""), "was built without CUDA")],
)
def test_a_gpu_without_the_cuda_variant_is_an_error_where_it_is_asked_for(monkeypatch, extension, built):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compiled, "EXTENSION", extension)
    with pytest.raises(ValueError, match=f"has a GPU and the kernels' extension {built}.*or set model.kernels=torch"):
        require_cuda_variant()


def test_the_cuda_variant_is_enough_and_a_machine_without_a_gpu_needs_none(monkeypatch):
    monkeypatch.setattr(compiled, "EXTENSION", None)
    if not torch.cuda.is_available():
        require_cuda_variant()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(compiled, "EXTENSION", SimpleNamespace(CUDA_ARCHITECTURES="90"))
    require_cuda_variant()


def test_the_package_imports_without_the_extension():
    code = (
        "import sys; sys.modules['editcaption_mega.kernels._C'] = None\n"
        "import warnings; warnings.simplefilter('ignore')\n"
        "import torch; from editcaption_mega.kernels import *\n"
        "assert available_backends() == ('torch',)\n"
        "assert abs(log_probs(torch.zeros(1, 4), torch.tensor([2])).item() + 1.3862944) < 1e-6\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_extension_that_does_not_load_says_why(tmp_path):
    """As one that was built for another Python or lacks a symbol: not the same as one that was never built."""
    code = (
        "import importlib.machinery, sys, warnings, editcaption_mega\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'editcaption_mega.kernels._C':\n"
        f"            loader = importlib.machinery.ExtensionFileLoader(name, {str(tmp_path / '_C.so')!r})\n"
        "            return importlib.machinery.ModuleSpec(name, loader, origin=loader.path)\n"
        "sys.meta_path.insert(0, Broken())\n"
        "from editcaption_mega.kernels import available_backends\n"
        "assert available_backends() == ('torch',)\n"
    )
    (tmp_path / "_C.so").write_bytes(b"no library")
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "the extension cannot be used here (" in done.stderr and "make setup" in done.stderr


def test_an_extension_of_other_sources_is_not_used_and_says_so():
    """As after an update without a new build."""
    code = (
        "import sys, types; sys.modules['editcaption_mega.kernels._C'] = types.ModuleType('_C')\n"
        "from editcaption_mega.kernels import available_backends\n"
        "assert available_backends() == ('torch',)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "it was built from other sources); run `make setup` again" in done.stderr
