"""Packed rows: one sample never sees another, and a row without pictures works."""

import pytest
import tiny
import torch

from editcaption_mega import platform
from editcaption_mega.conversion import load_weights
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.settings import ModelSettings, ParallelSettings


@pytest.fixture(scope="module", params=["dense", "moe"])
def model(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    tiny.hf_model(experts=request.param == "moe", layers=4).save_pretrained(folder)
    platform.initialize(platform.Layout(), seed=1)
    architecture = Architecture.from_folder(folder)
    (chunk,) = build_model(architecture, ModelSettings(folder=str(folder)), ParallelSettings(), "fp32")
    load_weights([chunk], architecture, folder)
    yield chunk
    platform.destroy()


def logits(model, samples, length):
    with torch.no_grad():
        return model(tiny.row(samples, length), output="logits")


def test_packed_equals_unpacked(model):
    samples = tiny.samples(4)
    row = tiny.row(samples, 220)
    packed = logits(model, samples, 220)
    for i, sample in enumerate(samples):
        alone = logits(model, [sample], sample.num_tokens)
        assert (packed[row.bounds[i] : row.bounds[i + 1]] - alone).abs().max() <= 2e-5


def test_changing_one_picture_changes_no_other_sample(model):
    samples = tiny.samples(4)
    row = tiny.row(samples, 220)
    before = logits(model, samples, 220)
    samples[1] = tiny.samples(2, picture_seed=99)[1]
    after = logits(model, samples, 220)
    for i in range(4):
        part = slice(row.bounds[i], row.bounds[i + 1])
        change = (before[part] - after[part]).abs().max()
        assert change > 1e-3 if i == 1 else change <= 2e-5


def test_padding_changes_nothing(model):
    samples = tiny.samples(2)
    total = sum(sample.num_tokens for sample in samples)
    short, long = logits(model, samples, total), logits(model, samples, total + 37)
    assert (short - long[:total]).abs().max() <= 2e-5


def test_log_probs_equal_the_logits(model):
    row = tiny.row(tiny.samples(3), 200)
    with torch.no_grad():
        expected = model(row, output="logits").double().log_softmax(-1)[row.target_rows, row.targets]
        assert (model(row).double() - expected).abs().max() <= 1e-5


def test_a_row_without_pictures_has_every_gradient(model):
    samples = tiny.samples(2, text_only=(0, 1))
    model.zero_grad()
    model(tiny.row(samples, 60)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(p.grad.abs().sum() == 0 for name, p in model.named_parameters() if name.startswith("vision"))
