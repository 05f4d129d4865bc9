"""Shared-prompt rows against two plain sequences: response log-probs and every parameter's gradient, by layout."""

import pytest
import torch
from safetensors.torch import load_file

from editcaption_mega.conversion import StoreReader
from tests.helpers import tiny
from tests.parity import matrix
from tests.parity.worker import possible, slug_of

BAR = 2e-5
FAST = ["dense/1 rank", "moe/1 rank", "dense/TP2+SP"]
SLOW = [
    f"{kind}/{layout}"
    for layout in ("1 rank, full recompute", "1 rank, selective recompute", "TP2+SP, full recompute", "TP2+SP", "PP2",
                   "TP2 x EP2, recompute of norms and expert activations",
                   "TP2+SP, recompute of norms, attention and feed-forward", "PP2, recompute of 1 layer in each",
                   "PP2 x VPP2", "EP2", "TP2 x EP2", "PP2 x VPP2 of 2+3+1+2 layers",
                   "PP2 of 1+7 layers", "PP2 of 0+8 layers", "PP2 x VPP2 of 1+3+3+1 layers",
                   "TP2 x PP2 x VPP2 of 0+1+6+1 layers", "PP4 x VPP2")
    for kind in ("dense", "moe")
    if possible(kind, layout) and f"{kind}/{layout}" not in FAST
]  # fmt: skip


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    work = tmp_path_factory.mktemp("shared_prompt")
    for kind in ("dense", "moe"):
        tiny.hf_model(experts=kind == "moe", tied=kind == "dense").save_pretrained(work / kind)
    matrix.launch("shared_prompt_worker", work, FAST)
    return work


@pytest.fixture(scope="module")
def everything(fast):
    matrix.launch("shared_prompt_worker", fast, SLOW)
    return fast


def log_probs(work, slug) -> dict[str, torch.Tensor]:
    parts = [load_file(path) for path in sorted((work / "log_probs").glob(f"{slug}.?"))]
    return {name: values for part in parts for name, values in part.items()}


def errors(work, kind, layout, reference="1 rank") -> tuple[float, float]:
    """Largest difference of shared rows from plain rows: of a log-prob, and of a gradient (relative to its tensor)."""
    slugs = f"{slug_of(kind, layout)}-shared", f"{slug_of(kind, reference)}-plain"
    mine, plain = (log_probs(work, slug) for slug in slugs)
    assert mine.keys() == plain.keys() and len(plain) == 16
    worst = max((mine[name] - plain[name]).abs().max().item() for name in plain)
    mine, plain = (StoreReader(work / "gradients" / slug) for slug in slugs)
    assert mine.tensors.keys() == plain.tensors.keys()
    gradients = {name: (mine.read(name), plain.read(name)) for name in plain.tensors}
    sizes = {name: expected.abs().max() for name, (_, expected) in gradients.items()}
    # Some gradients are zero but for rounding (a bias of the keys moves no softmax): those have no scale of their own.
    floor = 1e-3 * max(sizes.values())
    return worst, max(
        ((found - expected).abs().max() / max(sizes[name], floor)).item()
        for name, (found, expected) in gradients.items()
    )


def check(work, name) -> None:
    kind, layout = name.split("/")
    log_prob, gradient = errors(work, kind, layout)
    print(f"{name}: log-probs {log_prob:.1e}, gradients {gradient:.1e}")
    assert log_prob <= BAR and gradient <= BAR


@pytest.mark.parametrize("name", FAST)
def test_equals_two_plain_sequences(fast, name):
    check(fast, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_equals_two_plain_sequences_elsewhere(everything, name):
    check(everything, name)
