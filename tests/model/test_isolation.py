"""Packed rows: one sample never sees another, and a row without pictures works."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from editcaption_mega import platform
from editcaption_mega.conversion import load_weights
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.settings import ModelSettings, ParallelSettings
from tests.helpers import tiny


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
        expected = model(row, output="logits").double().log_softmax(-1)[row.target_positions, row.targets]
        assert (model(row).double() - expected).abs().max() <= 1e-5


def test_a_row_without_pictures_has_every_gradient(model):
    samples = tiny.samples(2, text_only=(0, 1))
    model.zero_grad()
    model(tiny.row(samples, 60)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert all(p.grad.abs().sum() == 0 for name, p in model.named_parameters() if name.startswith("vision"))


def response(model, pairs, length=260):
    """Log-probs of each answer of the row: pair 0 chosen, pair 0 rejected, pair 1 chosen, .."""
    row = tiny.row(pairs, length)
    with torch.no_grad():
        values = model(row)
    return [values[first:last] for first, last in pairwise(row.response_bounds)]


def changes(model, before, after) -> list[int]:
    """Which answers changed. Dense: by a single bit. Experts: the sizes of their matrix products depend on what the
    whole row routes to them, which rounds other answers differently."""
    rounding = 2e-6 if model.config.num_moe_experts else 0.0
    return [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if (a - b).abs().max() > rounding]


@pytest.mark.parametrize("changed", range(8))
def test_changing_one_answer_of_a_pair_changes_no_other_answer(model, changed):
    pairs = tiny.pairs(4)
    before = response(model, pairs)
    answers = list(pairs[changed // 2].answers)
    answers[changed % 2] = tuple(token + 1 for token in answers[changed % 2])
    pairs[changed // 2] = replace(pairs[changed // 2], answers=tuple(answers))
    after = response(model, pairs)
    assert changes(model, before, after) == [changed]


def test_changing_one_prompt_of_a_row_of_pairs_changes_its_own_answers_only(model):
    pairs = tiny.pairs(4)
    before = response(model, pairs)
    pairs[1] = replace(pairs[1], prompt_ids=(pairs[1].prompt_ids[0] + 1, *pairs[1].prompt_ids[1:]))
    after = response(model, pairs)
    assert changes(model, before, after) == [2, 3]


def test_a_pair_with_sharing_equals_the_pair_without(model):
    pairs = tiny.pairs(4, text_only=(2,))
    shared, apart = response(model, pairs), response(model, tiny.unshared(pairs))
    assert max((a - b).abs().max() for a, b in zip(shared, apart, strict=True)) <= 2e-5
