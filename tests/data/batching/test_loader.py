"""Steps: their packed sequences hold whole pairs, and each rank reads what it needs, once."""

import dataclasses
import os

import pytest

from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.data.shards.index import load_index
from editcaption_mega.data.shards.layout import MEMBERS
from tests.helpers.small_pairs import ANSWERS, opened, reader_of, write_pairs


@pytest.mark.parametrize("with_images", [True, False])
def test_a_step_reads_each_member_of_its_own_samples_once(model, folder, monkeypatch, with_images):
    """Planning reads nothing; of the samples of other ranks nothing is read at all."""
    reads, pread = [], os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: reads.append(offset) or pread(file, size, offset))
    members = {
        getattr(sample, part).offset: (sample.id, part) for sample in load_index(folder).samples for part in MEMBERS
    }
    dataset = opened(model, folder, answers="preference")
    reader = reader_of(dataset, 4096, data_parallel_size=2, with_images=with_images)
    assert sorted(members[place] for place in reads) == sorted((name, "json") for name in dataset.shards.ids)
    reads.clear()
    stream = StepStream(reader, SampleOrder(6, 1), 6)
    assert len(reader.plan(stream.samples(0)).sequences) == 1 and reads == []
    (step,) = stream.steps(0, 1)
    (batch,) = step.micro_batches
    assert 0 < len(batch.sample_ids) < 6, "the other rank has samples too"
    parts = MEMBERS if with_images else ("json",)
    assert sorted(members[place] for place in reads) == sorted(
        (name, part) for name in batch.sample_ids for part in parts
    )


@pytest.mark.parametrize("shared", [True, False])
def test_rows_hold_whole_pairs(model, folder, shared):
    dataset = opened(model, folder, answers="preference", shared_prompt=shared)
    order = SampleOrder(len(dataset), 1)
    lengths = [dataset.sample(i).num_tokens for i in range(6)]
    stream = StepStream(reader_of(dataset, 2 * max(lengths), length_multiple=8), order, 6)
    (step,) = stream.steps(0, 1)
    batches, responses = step.micro_batches, step.response_tokens
    ids = [name for batch in batches for name in batch.sample_ids]
    assert sorted(ids) == sorted(dataset.shards.ids) and len(batches) >= 3
    assert sum(len(batch.targets) for batch in batches) == responses
    assert all(len(batch.response_bounds) == 2 * len(batch.sample_ids) + 1 for batch in batches)
    assert all(len(batch.bounds) <= 2 * len(batch.sample_ids) + 2 for batch in batches)
    assert sum(batch.num_tokens for batch in batches) == sum(lengths)
    assert all((batch.key_index is not None) == shared for batch in batches)


def test_shards_that_change_while_a_job_runs_are_noticed(model, folder, tmp_path):
    reader = reader_of(opened(model, folder, answers="preference"), 4096)
    longer = [(chosen + " and more", rejected) for chosen, rejected in ANSWERS]
    other = opened(model, write_pairs(tmp_path / "longer", longer), answers="preference")
    stream = StepStream(dataclasses.replace(reader, dataset=other), SampleOrder(6, 1), 6)
    with pytest.raises(ValueError, match=r"sample \S+ takes \d+ tokens, and \d+ when the job began: the shards were"):
        next(stream.steps(0, 1))
