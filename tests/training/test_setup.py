"""The lengths of a job's samples: measured once over all ranks, and refused alike by all of them."""

import os

import numpy as np
import pytest
import torch

from editcaption_mega import platform
from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import OptimizerSettings, ParallelSettings, SettingsError
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.setup import length_multiple, measure_samples
from tests.helpers import small_job, tiny
from tests.helpers.ranks import on_ranks
from tests.helpers.train_state import train_state


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_job.write_folder(tmp_path_factory.mktemp("lengths") / "model")


def dataset(folder, shards):
    return open_pairs([str(shards)], folder, min_pixels=1024, max_pixels=1 << 20)


def lengths_and_reads(rank, folder, shards):
    pairs, reads = dataset(folder, shards), []
    read = pairs.shards.pair
    pairs.shards.pair = lambda i: reads.append(i) or read(i)
    return measure_samples(pairs, 4096), reads


def test_each_record_is_read_by_one_rank_and_all_know_every_length(folder, tmp_path):
    shards = small_job.write_shards(tmp_path / "pairs", 5)
    (first, reads), (second, other_reads) = on_ranks(lengths_and_reads, tmp_path, folder, shards)
    assert reads == [0, 2, 4] and other_reads == [1, 3]
    alone, _ = dataset(folder, shards).measure(range(5), 4096)
    assert all(np.array_equal(lengths.table, alone.table) for lengths in (first, second))


def kept(shards):
    return sorted(path.name for path in shards.glob("lengths-*"))


def test_the_folder_keeps_them_for_all_jobs_with_the_same_tokens(folder, tmp_path):
    shards = small_job.write_shards(tmp_path / "pairs", 5)
    first, reads = lengths_and_reads(0, folder, shards)
    assert reads == [0, 1, 2, 3, 4] and len(kept(shards)) == 1
    later = [*on_ranks(lengths_and_reads, tmp_path, folder, shards), lengths_and_reads(0, folder, shards)]
    for again, no_reads in later:
        assert no_reads == [] and np.array_equal(again.table, first.table)
    smaller = open_pairs([str(shards)], folder, min_pixels=1024, max_pixels=4096)
    assert not np.array_equal(measure_samples(smaller, 4096).table, first.table)
    assert len(kept(shards)) == 2, "other limits of pictures"
    with pytest.raises(ValueError, match="more than data.sequence_length=64"):
        measure_samples(dataset(folder, shards), 64)


def test_lengths_that_were_damaged_or_cannot_be_kept_are_made_anew(folder, tmp_path, monkeypatch):
    shards = small_job.write_shards(tmp_path / "pairs", 5)
    first, _ = lengths_and_reads(0, folder, shards)
    (path,) = shards.glob("lengths-*")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    again, reads = lengths_and_reads(0, folder, shards)
    assert reads == [0, 1, 2, 3, 4] and np.array_equal(again.table, first.table)
    path.unlink()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("editcaption_mega.data.start_tables.write_arrays", refuse)
    again, _ = lengths_and_reads(0, folder, shards)
    assert np.array_equal(again.table, first.table) and kept(shards) == []


def test_several_folders_and_a_choice_keep_none(folder, tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        small_job.write_shards(tmp_path / name, 3, seed=seed)
    both = open_pairs([str(tmp_path / "a"), str(tmp_path / "b")], folder, min_pixels=1024, max_pixels=1 << 20)
    assert len(measure_samples(both, 4096).table) == 6
    assert kept(tmp_path / "a") == kept(tmp_path / "b") == []


def test_lengths_of_rows_are_level_on_gpus_and_divide_over_tensor_parallel_ranks():
    for tensor, on_gpu, expected in ((1, False, 1), (3, False, 3), (1, True, 128), (8, True, 128), (3, True, 384)):
        parallel = ParallelSettings(tensor_model_parallel_size=tensor)
        assert length_multiple(parallel, on_gpu=on_gpu) == expected


def deterministic_step(rank, folder):
    platform.initialize(platform.Layout(), 1, deterministic=True)  # for the process, whatever it joins later
    platform.destroy()
    state, _ = train_state(folder, OptimizerSettings())
    row = tiny.row(tiny.samples(2), 110)
    loss = train_step(state, SFTObjective(), Step(0, [row], 110, len(row.targets), 2))["loss"]
    reduced = torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction
    return loss, torch.are_deterministic_algorithms_enabled(), reduced, os.environ["CUBLAS_WORKSPACE_CONFIG"]


def test_a_step_that_must_give_the_same_bits_uses_no_operator_that_may_not(tmp_path):
    tiny.hf_model(experts=True, layers=2).save_pretrained(tmp_path / "model")
    ((loss, enabled, reduced, workspace),) = on_ranks(deterministic_step, tmp_path, tmp_path / "model", count=1)
    assert loss > 0 and enabled and not reduced and workspace == ":4096:8"


def too_long(rank, folder, shards, most):
    measure_samples(dataset(folder, shards), most)


def unreadable(rank, folder, work):
    pairs = dataset(folder, small_job.write_shards(work / f"pairs-{rank}", 5))
    if rank == 1:
        for path in pairs.shards.directories[0].glob("*.tar"):
            path.unlink()
    measure_samples(pairs, 4096)


def test_all_ranks_raise_for_what_one_of_them_cannot_use(folder, tmp_path):
    shards = small_job.write_shards(tmp_path / "pairs", 5)
    longest = int(dataset(folder, shards).measure(range(5), 4096)[0].num_tokens.max())
    sentence = f"takes {longest} tokens, more than data.sequence_length={longest - 1}"
    for errors, kind, words in (
        (on_ranks(too_long, tmp_path, folder, shards, longest - 1), SettingsError, sentence),
        (on_ranks(unreadable, tmp_path, folder, tmp_path), FileNotFoundError, "pairs-1/shard-000000.tar"),
    ):
        assert [type(error) for error in errors] == [kind] * 2 and str(errors[0]) == str(errors[1])
        assert words in str(errors[0])
