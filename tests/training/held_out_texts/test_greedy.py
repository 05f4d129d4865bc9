"""The texts that a job's own passes give are those of transformers' greedy generation, token for token, anywhere."""

import dataclasses
import random

import pytest
import torch

from editcaption_mega import platform
from editcaption_mega.conversion import load_weights
from editcaption_mega.inference.local import instructions
from editcaption_mega.inference.local.generator import Generator
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.settings import DataSettings, JobSettings, ModelSettings, ParallelSettings
from editcaption_mega.training.held_out_texts import greedy
from editcaption_mega.training.setup import layout_of, measure_samples, open_dataset, open_reader
from tests.helpers import ranks, small_job, small_pairs

PAIRS, NEW_TOKENS = 5, 12
# Weights so large that texts differ from pair to pair and from token to token.
LOUD = dataclasses.replace(small_job.SIZE, initializer_range=0.3)
SIZES = {"moe": LOUD, "dense": dataclasses.replace(LOUD, experts=0, tied=True)}
TENSOR, PIPELINE, EXPERT = "tensor_model_parallel_size", "pipeline_model_parallel_size", "expert_model_parallel_size"
LAYOUTS = {
    "moe/DP2": {},
    "moe/TP2 x EP2": {TENSOR: 2, EXPERT: 2, "expert_tensor_parallel_size": 1},
    "moe/PP2 x VPP2": {PIPELINE: 2, "virtual_pipeline_model_parallel_size": 2},
}
MORE_LAYOUTS = {
    "moe/EP2": {EXPERT: 2},
    "moe/expert TP2": {TENSOR: 2, "expert_tensor_parallel_size": 2},
    "moe/PP2": {PIPELINE: 2},
    "dense/TP2+SP": {TENSOR: 2},
    "dense/TP2, no SP": {TENSOR: 2, "sequence_parallel": False},
    "dense/PP2, delayed weight gradients": {PIPELINE: 2, "delayed_weight_gradients": [0, 1]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("greedy")
    for kind, size in SIZES.items():
        small_job.write_folder(root / kind, size)
    small_job.write_shards(root / "shards", PAIRS)
    return root


@pytest.fixture(scope="module")
def expected(base):
    """Kind -> transformers' tokens for each pair, to the one that ends them, and which ids end them."""
    out = {}
    for kind in SIZES:
        generator, dataset = Generator(base / kind), open_dataset(settings(base, kind))
        prompts = [instructions._prompt(dataset.prompt(i), dataset.images) for i in range(PAIRS)]
        tokens = generator._answer(prompts, NEW_TOKENS, None)
        out[kind] = [_to_end(answer, generator.end_ids) for answer in tokens], generator.end_ids
    return out


def _to_end(tokens, ends):
    at = next((at for at, token in enumerate(tokens) if token in ends), len(tokens) - 1)
    return tokens[: at + 1]


def settings(base, kind, sequence_length=512, **parallel):
    return JobSettings(
        model=ModelSettings(folder=str(base / kind)),
        data=DataSettings(shards=[str(base / "shards")], sequence_length=sequence_length, min_pixels=1024),
        parallel=ParallelSettings(**parallel),
    )


def answers(rank, base, kind, parallel, ends, guesses=None):
    """On a rank of this layout."""
    job = settings(base, kind, **parallel)
    job.parallel.validate()
    platform.initialize(layout_of(job.parallel), seed=1)
    architecture, dataset = Architecture.from_folder(base / kind), open_dataset(job)
    chunks = build_model(architecture, job.model, job.parallel, "fp32")
    load_weights(chunks, architecture, base / kind)
    lengths = measure_samples(dataset, job.data.sequence_length)
    packer = open_reader(job, dataset, lengths, architecture).packer
    prompts = [dataset.prompt(i) for i in range(PAIRS)]
    with torch.no_grad():
        return greedy.greedy_answers(
            [chunk.eval() for chunk in chunks], packer, prompts, ends=ends, max_new_tokens=NEW_TOKENS, guesses=guesses
        )


@pytest.mark.parametrize("name", [*LAYOUTS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_LAYOUTS)])
def test_each_layout_gives_the_texts_of_transformers(base, tmp_path, expected, name):
    kind = name.split("/")[0]
    tokens, ends = expected[kind]
    assert len(set(map(tuple, tokens))) > PAIRS - 2, "the pairs have texts of their own"
    for made, passes in ranks.on_ranks(answers, tmp_path, base, kind, (LAYOUTS | MORE_LAYOUTS)[name], ends):
        assert made == tokens
        assert passes <= NEW_TOKENS


def test_prompts_that_each_fill_a_row_are_divided_among_any_ranks(base, tmp_path, expected):
    """Five rows for two ranks: none of the prompts fits beside another, so one of them is computed twice."""
    tokens, ends = expected["moe"]
    for made, _ in ranks.on_ranks(answers, tmp_path, base, "moe", {"sequence_length": 170}, ends):
        assert made == tokens


def test_no_guess_changes_a_text_and_a_right_one_saves_passes(base, tmp_path, expected):
    tokens, ends = expected["moe"]
    draw = random.Random(3)
    wrong = [[draw.randrange(400) for _ in range(length)] for length in (0, 3, 11, 12, 40)]
    halves = [[*answer[:6], 7, *answer[7:]] for answer in tokens]
    taken = {}
    for name, guesses in (("right", tokens), ("wrong", wrong), ("one token off", halves)):
        ((made, taken[name]),) = ranks.on_ranks(answers, tmp_path, base, "moe", {}, ends, guesses, count=1)
        assert made == tokens, name
    assert taken["right"] <= 2 and taken["one token off"] < taken["wrong"] <= NEW_TOKENS


def test_an_answer_ends_with_the_first_of_the_ends(base, tmp_path, expected):
    tokens, _ = expected["moe"]
    end = tokens[0][4]
    ((made, _),) = ranks.on_ranks(answers, tmp_path, base, "moe", {}, [end], count=1)
    assert made[0] == tokens[0][: tokens[0].index(end) + 1] and len(made[0]) <= 5


def test_a_prompt_that_leaves_no_room_is_named(base):
    dataset = open_dataset(settings(base, "moe"))
    prompt = dataset.prompt(2)
    packer = small_pairs.packer_of(dataset, len(prompt.prompt_ids) + NEW_TOKENS - 1)
    with pytest.raises(ValueError, match=rf"{prompt.id}: its prompt of {len(prompt.prompt_ids)} tokens and 12"):
        greedy.greedy_answers([], packer, [prompt], ends=[0], max_new_tokens=NEW_TOKENS)
