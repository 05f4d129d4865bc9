"""Preference pairs from shards: what a sample holds, how pairs fill rows, and what is refused."""

import dataclasses

import pytest

from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.stream import PairDataset, RowSettings, StepStream, open_pairs, prefetched_steps
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.reader import ShardWriter
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from tests.helpers import small_job


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_job.write_folder(tmp_path_factory.mktemp("model"))


def write(folder, answers):
    """One pair for each (chosen, rejected); None: a pair with its instruction only."""
    with ShardWriter(folder) as writer:
        for index, pair in enumerate(answers):
            made = render_pair(WorldSettings(), 5, index)
            change = {} if pair is None else {"chosen": pair[0], "rejected": pair[1]}
            record = made.pair.model_copy(update=change)
            writer.add(record, encode_png(made.source), "png", encode_png(made.target), "png")
    return str(folder)


def opened(model, folder, **options):
    return open_pairs([folder], model, min_pixels=1024, max_pixels=1280 * 1024, **options)


ANSWERS = [("Make it red" + " again" * i, "Do nothing" + " at all" * (5 - i)) for i in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("preferences"), ANSWERS)


def test_a_preference_sample_holds_both_answers(model, folder):
    dataset = opened(model, folder, answers="preference")
    for i, (chosen, rejected) in enumerate(ANSWERS):
        sample = dataset.sample(i)
        assert sample.answers == (dataset.encoder.answer_ids(chosen), dataset.encoder.answer_ids(rejected))
        assert all(answer[-1] == dataset.encoder.end_token_id for answer in sample.answers)
        assert sample.prompt_ids == dataset.prompt(i).prompt_ids and len(sample.grids) == 2
        assert dataset.length(i) == len(sample.prompt_ids) + len(sample.answer_ids)


def test_either_takes_the_preference_where_there_is_one(model, tmp_path):
    folder = write(tmp_path / "mixed", [ANSWERS[0], None])
    dataset = opened(model, folder, answers="either")
    assert [len(dataset.sample(i).answers) for i in range(2)] == [2, 1]
    plain = opened(model, folder)
    assert [len(plain.sample(i).answers) for i in range(2)] == [1, 1]
    assert dataset.fingerprint == plain.fingerprint


@pytest.mark.parametrize("shared", [True, False])
def test_rows_hold_whole_pairs(model, folder, shared):
    dataset = opened(model, folder, answers="preference", shared_prompt=shared)
    order = SampleOrder(len(dataset), 1)
    lengths = [dataset.length(i) for i in range(6)]
    rows = RowSettings(global_batch_size=6, sequence_length=2 * max(lengths), length_multiple=8)
    stream = StepStream(dataset, order, rows, table_side=4)
    mine, length, responses = stream.tasks(0)
    batches = [stream.collate(row, length) for row in mine]
    ids = [name for batch in batches for name in batch.sample_ids]
    assert sorted(ids) == sorted(dataset.shards.ids) and len(batches) >= 3
    assert sum(len(batch.targets) for batch in batches) == responses
    assert all(len(batch.response_bounds) == 2 * len(batch.sample_ids) + 1 for batch in batches)
    assert all(len(batch.bounds) <= 2 * len(batch.sample_ids) + 2 for batch in batches)
    assert sum(batch.num_tokens for batch in batches) == sum(lengths)
    assert all((batch.key_rows is not None) == shared for batch in batches)


@pytest.mark.parametrize(
    "pair, words",
    [
        (None, "has no chosen and rejected answers to compare: remove it or write both"),
        # A control character that tokenisation would strip.
        (("Make it red.", "Make it red.\x1f"), r"chosen and rejected are the same \d+ tokens .*expected two different"),
        (("\x1f", "Make it red."), "field 'chosen' .* holds a control character"),
    ],
)
def test_pairs_that_cannot_be_compared_are_refused(model, tmp_path, pair, words):
    dataset = opened(model, write(tmp_path / "bad", [ANSWERS[0], pair]), answers="preference")
    name = dataset.shards.meta(1).id
    with pytest.raises(ValueError, match=f"sample '?{name}.*{words}"):
        dataset.sample(1)
    assert len(dataset.check(range(2), 4096)) == 1


def test_a_picture_that_cannot_be_used_is_told_with_its_sample(model, tmp_path):
    """Before work where its size tells, and when it is decoded: damaged, or another than when it was indexed."""
    made = render_pair(WorldSettings(), 5, 0)
    sound, wide = encode_png(made.source), encode_png(made.source.resize((2010, 10)))
    with ShardWriter(tmp_path / "wide") as writer:
        for name, target in (("plain", sound), ("wide", wide)):
            writer.add(made.pair.model_copy(update={"id": name}), sound, "png", target, "png")
    dataset = opened(model, tmp_path / "wide")
    (problem,) = dataset.check(range(2), 4096)
    assert problem == (
        "sample wide: its target picture cannot be used (a picture of 2010 x 10 pixels is more than 200 times longer "
        "than wide): crop it or remove the sample"
    )
    with pytest.raises(ValueError, match="sample wide: its target picture"):
        dataset.prompt(1)

    class Changed:
        """Shards whose bytes are not those that were indexed."""

        def __init__(self, shards, data):
            self.shards, self.data = shards, data

        def __getattr__(self, name):
            return getattr(self.shards, name)

        def __getitem__(self, i):
            return dataclasses.replace(self.shards[i], target_bytes=self.data)

    for data, words in [
        (sound[:-40], "plain .target.* "),
        (b"no picture", "plain .target.* "),
        (wide, "sample plain: its target picture has 2010 x 10 pixels, index.json says .*make them again"),
    ]:
        changed = PairDataset(Changed(dataset.shards, data), dataset.encoder, dataset.images)
        with pytest.raises(ValueError, match=words) as error:
            changed.sample(0).patches(1)
        assert "\n" not in str(error.value)
        stream = StepStream(
            changed, SampleOrder(1, 0), RowSettings(global_batch_size=1, sequence_length=4096), table_side=4
        )
        with pytest.raises(ValueError, match=words):
            list(prefetched_steps(stream, 0, 1, ahead=1, workers=1))


def test_a_pair_longer_than_a_row(model, folder):
    shared = opened(model, folder, answers="preference")
    apart = opened(model, folder, answers="preference", shared_prompt=False)
    room = shared.length(0)
    assert shared.check(range(1), room) == []
    (problem,) = shared.check(range(1), room - 1)
    assert problem.startswith(f"sample {shared.shards.meta(0).id} takes {room} tokens, more than")
    assert "data.shared_prompt" not in problem
    (problem,) = apart.check(range(1), room)
    assert "set data.shared_prompt=true: the prompt is in there twice" in problem
