"""Pairs as samples: which answers they have, how long they are, and what is refused."""

import numpy as np
import pytest

from tests.helpers.small_pairs import ANSWERS, opened, write_pairs


def test_a_preference_sample_holds_both_answers(model, folder):
    dataset = opened(model, folder, answers="preference")
    for i, (chosen, rejected) in enumerate(ANSWERS):
        sample = dataset.sample(i)
        assert sample.answers == (dataset.encoder.answer_ids(chosen), dataset.encoder.answer_ids(rejected))
        assert all(answer[-1] == dataset.encoder.end_token_id for answer in sample.answers)
        assert sample.prompt_ids == dataset.prompt(i).prompt_ids and len(sample.grids) == 2
        assert sample.num_tokens == len(sample.prompt_ids) + len(sample.answer_ids)


def test_either_takes_the_preference_where_there_is_one(model, tmp_path):
    folder = write_pairs(tmp_path / "mixed", [ANSWERS[0], None])
    dataset = opened(model, folder, answers="either")
    assert [len(dataset.sample(i).answers) for i in range(2)] == [2, 1]
    plain = opened(model, folder)
    assert [len(plain.sample(i).answers) for i in range(2)] == [1, 1]
    assert dataset.fingerprint == plain.fingerprint


@pytest.mark.parametrize(
    "pair, words",
    [
        (None, "has no chosen and rejected answers to compare: remove it or write both"),
        # A control character that tokenisation would strip.
        (("Make it red.", "Make it red.\x1f"), r"chosen and rejected are the same \d+ tokens .*expected two different"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(model, tmp_path, pair, words):
    dataset = opened(model, write_pairs(tmp_path / "bad", [ANSWERS[0], pair]), answers="preference")
    name = dataset.shards.meta(1).id
    with pytest.raises(ValueError, match=f"sample '?{name}.*{words}"):
        dataset.sample(1)
    assert len(dataset.measure(range(2), 4096)[1]) == 1


def test_a_pair_longer_than_a_row(model, folder):
    shared = opened(model, folder, answers="preference")
    apart = opened(model, folder, answers="preference", shared_prompt=False)
    room = shared.sample(0).num_tokens
    assert shared.measure(range(1), room)[1] == []
    _, (problem,) = shared.measure(range(1), room - 1)
    assert problem.startswith(f"sample {shared.shards.meta(0).id} takes {room} tokens, more than")
    assert "data.shared_prompt" not in problem
    _, (problem,) = apart.measure(range(1), room)
    assert "set data.shared_prompt=true: the prompt is in there twice" in problem


def test_lengths_measured_by_several_ranks(model, folder, tmp_path):
    dataset = opened(model, write_pairs(tmp_path / "mixed", [*ANSWERS, None]), answers="either")
    whole, _ = dataset.measure(range(7), 4096)
    samples = [dataset.sample(i) for i in range(7)]
    assert whole.num_tokens.tolist() == [sample.num_tokens for sample in samples]
    lengths = [[len(answer) for answer in sample.answers] for sample in samples]
    assert whole.answers.tolist() == [*lengths[:6], [*lengths[6], 0]] and whole.table.dtype == np.int32
    assert [whole.num_answers(i) for i in range(7)] == [2] * 6 + [1]
    for ranks in (2, 3, 9):
        for rank in range(ranks):
            part, _ = dataset.measure(range(rank, 7, ranks), 4096)
            assert np.array_equal(part.table, whole.table[rank::ranks])
