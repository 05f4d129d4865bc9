"""Rows without samples that cannot be read."""

import os
import pickle
import shutil

import pytest
import torch

from editcaption_mega.data import open_shards
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.data.images.decode import ImageError
from editcaption_mega.data.shards.layout import ShardError
from tests.helpers.damaged_shards import KINDS, damage
from tests.helpers.small_pairs import opened, packer_of, reader_of

BAD = (1, 2, 4)


@pytest.fixture
def sound(model, folder):
    return reader_of(opened(model, folder, answers="preference"), 4096)


def reader_at(model, shards, sound):
    dataset = opened(model, shards, answers="preference")
    return SequenceReader(dataset, sound.lengths, packer_of(dataset, 4096), place=dataset.place)


@pytest.fixture
def damaged(model, folder, sound, tmp_path):
    shutil.copytree(folder, tmp_path / "bad")
    with open_shards(tmp_path / "bad") as reader:
        for number, kind in zip(BAD, KINDS, strict=True):
            damage(reader, number, kind)
    return reader_at(model, tmp_path / "bad", sound)


def assert_same(batch, other):
    assert batch.sample_ids == other.sample_ids and batch.sample_numbers == other.sample_numbers
    for mine, its in ((batch, other), (batch.images, other.images)):
        for name, value in vars(mine).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(its, name)), name


def test_a_row_without_its_bad_samples_is_the_row_of_the_others(damaged, sound):
    batch = damaged.read([0, 1, 2, 3, 4, 5], 4096)
    assert_same(batch, sound.read([0, 3, 5], 4096))
    assert [sample.number for sample in batch.bad_samples] == [1, 2, 4]
    for sample in batch.bad_samples:
        assert sample.id == damaged.dataset.id(sample.number) and sample.shard.endswith("bad/shard-000000.tar")
    reasons = [sample.reason for sample in batch.bad_samples]
    assert "(target): not an image" in reasons[0]
    assert "its target picture can be decoded and is not the one that was written, by its sha256" in reasons[1]
    assert "not valid JSON" in reasons[2]


def test_what_others_name_is_left_out_and_not_met(damaged, sound):
    batch = damaged.read([0, 1, 2, 3], 4096, without={1, 3})
    assert_same(batch, sound.read([0], 4096))
    assert [sample.number for sample in batch.bad_samples] == [2]


def test_a_row_of_which_nothing_is_left_is_padding(damaged):
    batch = damaged.read([1, 2], 4096)
    assert batch.sample_ids == () and batch.num_tokens == 0 and batch.bounds == (0, 4096)
    assert batch.padding_mask.all() and len(batch.targets) == 0 and batch.response_bounds == (0,)
    assert batch.images.num_tokens == 0 and len(batch.images.pixels) == 4


def test_without_the_policy_they_raise(damaged):
    strict = SequenceReader(damaged.dataset, damaged.lengths, damaged.packer)
    for number, kind in zip(BAD, (ImageError, ShardError, ShardError), strict=True):
        with pytest.raises(kind, match=damaged.dataset.id(number)):
            strict.read([number], 4096)


def test_missing_bytes_are_bad_samples_and_a_missing_tar_is_an_error(model, folder, sound, tmp_path):
    shutil.copytree(folder, tmp_path / "cut")
    reader = reader_at(model, tmp_path / "cut", sound)
    (tar,) = (tmp_path / "cut").glob("*.tar")
    os.truncate(tar, int(reader.dataset.shards.columns.offset[3, 1]) + 10)
    batch = reader.read(range(6), 4096)
    assert batch.sample_numbers == (0, 1, 2)
    assert all("the tar was truncated" in sample.reason for sample in batch.bad_samples)
    tar.unlink()
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(reader)).read([0], 4096)


def test_lengths_of_bad_records_are_none_and_other_problems_stay(damaged):
    lengths, problems = damaged.dataset.measure(range(6), 4096, skip_bad=True)
    assert problems == [] and lengths.num_tokens.astype(bool).tolist() == [True, True, True, True, False, True]
    _, problems = damaged.dataset.measure(range(6), 4096)
    assert len(problems) == 1 and "not valid JSON" in problems[0]
    _, problems = damaged.dataset.measure(range(6), 50, skip_bad=True)
    assert len(problems) == 5 and all("more than data.sequence_length=50" in problem for problem in problems)
