"""Ranks with much to write of a checkpoint have others write a part: level, nothing lost, every value its own."""

import errno
import random

import pytest
import torch

from editcaption_mega import platform
from editcaption_mega.conversion import (
    Box,
    DamagedCheckpointError,
    LocalCopies,
    StoreReader,
    StoreWriter,
    store,
    verify_checkpoint,
)
from editcaption_mega.data.text.side_files import SideFiles
from editcaption_mega.training.checkpoint import CheckpointFolder
from editcaption_mega.training.checkpoint.contents import StoredRange
from editcaption_mega.training.checkpoint.handover import MOST, Trade, handovers, written_bytes
from editcaption_mega.training.checkpoint.publishing import write_checkpoint
from editcaption_mega.training.checkpoint.random_state import rank_layout
from tests.helpers.ranks import on_ranks

RANDOM = random.Random(3)
SIZES = [
    [0, 0, 0],
    [7],
    [10, 10, 10, 10],
    [0, 4 << 30, 4 << 30, 4 << 30],
    [1, 1 << 40],
    *([RANDOM.randrange(10 ** RANDOM.randrange(1, 12)) for _ in range(RANDOM.randrange(2, 40))] for _ in range(100)),
]


@pytest.mark.parametrize("sizes", SIZES, ids=range(len(SIZES)))
def test_no_rank_writes_much_more_than_the_mean(sizes):
    plan, written = handovers(sizes), written_bytes(sizes)
    assert sum(written) == sum(sizes) and max(written) <= MOST * sum(sizes) / len(sizes) + 1
    assert not {giver for giver, _, _ in plan} & {taker for _, taker, _ in plan}
    assert all(nbytes > 0 for _, _, nbytes in plan) and min(written) >= min(sizes)
    if max(sizes) * len(sizes) <= MOST * sum(sizes):
        assert plan == []


def test_the_fullest_give_to_the_emptiest():
    assert handovers([0, 100, 160, 100, 40]) == [(2, 0, 72), (1, 4, 12), (3, 4, 12)]


def whole(number: int) -> torch.Tensor:
    """One of 40 tensors, of several dtypes."""
    generator = torch.Generator().manual_seed(number)
    dtype = (torch.float32, torch.bfloat16, torch.uint8)[number % 3]
    return torch.randint(0, 100, (4, 3 + number, 5), generator=generator).to(dtype)


def ranges_of(rank: int) -> list[StoredRange]:
    """Of each tensor rank 1 has most and rank 3 nothing."""
    ranges = []
    for number in range(40):
        tensor = whole(number)
        places = [int(share * tensor.numel()) for share in (0, 0.05, 0.9, 1, 1)]
        start, end = places[rank], places[rank + 1]
        if start < end:
            shape = tuple(tensor.shape)
            ranges.append(
                StoredRange(f"tensor/{number}", shape, Box.whole(shape), start, tensor.flatten()[start:end].clone())
            )
    return ranges


def write(rank: int, folder, failing: int) -> int:
    """-> bytes that this rank wrote."""
    group = platform.host_group()
    if rank == failing:

        def write_tensors(path, tensors, metadata=None):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

        store.write_tensors = write_tensors
    trade = Trade(ranges_of(rank), group)
    writer = StoreWriter(folder, group=group, max_file_bytes=2000)
    for stored in trade.ranges:
        writer.add_range(*stored)
    trade.finish()
    writer.finish()
    return sum(stored.values.nbytes for stored in trade.ranges)


def test_every_value_is_written_once_and_is_its_own(tmp_path):
    written = on_ranks(write, tmp_path, tmp_path / "store", -1, count=4)
    sizes = [sum(stored.values.nbytes for stored in ranges_of(rank)) for rank in range(4)]
    assert sum(written) == sum(sizes) and sizes[3] == 0 < written[3]
    assert all(abs(given - planned) <= 4 for given, planned in zip(written, written_bytes(sizes), strict=True))
    reader = StoreReader(tmp_path / "store")
    assert len(reader.tensors) == 40
    for number in range(40):
        assert torch.equal(reader.read(f"tensor/{number}"), whole(number))


@pytest.mark.parametrize("failing", [1, 3])
def test_a_giver_or_a_taker_that_cannot_write_fails_all_alike(tmp_path, failing):
    errors = on_ranks(write, tmp_path, tmp_path / "store", failing, count=4)
    assert [type(error) for error in errors] == [OSError] * 4
    assert len({str(error) for error in errors}) == 1 and f"rank{failing:05d}" in str(errors[0])
    assert not (tmp_path / "store" / "tensors.json").exists()


def damaged_beside_copies(rank: int, output, victim: int) -> bool:
    """A checkpoint with copies of what each rank wrote, and then a bit of rank `victim`'s file flips -> whether this
    rank reads what it had before others wrote it."""
    platform.initialize(platform.Layout(), seed=1)
    group = platform.host_group()
    folder = CheckpointFolder(output, {"step": 1, "updates": 1}, SideFiles("", {}), {})
    digests = write_checkpoint(folder, ranges_of(rank), group=group)
    local = LocalCopies(output / "disk", output, rank_layout())
    local.keep(folder.final, digests)
    if rank == victim:
        path = folder.final / f"rank{rank:05d}-0000.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    platform.barrier()
    reader = verify_checkpoint(folder.final, local=local)
    return all(
        torch.equal(reader.read_range(key, box, start, start + len(values)), values)
        for key, _, box, start, values in ranges_of(rank)
    )


@pytest.mark.parametrize("victim", [1, 3])
def test_a_file_that_others_read_is_verified_beside_its_writers_copy(tmp_path, victim):
    """Rank 3 has written what is rank 1's, who has no copy of it: found before anything is read, so that another
    checkpoint can be taken. Of rank 1's own file there is a copy, and nobody else reads it."""
    outcomes = on_ranks(damaged_beside_copies, tmp_path, tmp_path, victim, count=4)
    if victim == 1:
        assert outcomes == [True] * 4
    else:
        assert [type(outcome) for outcome in outcomes] == [DamagedCheckpointError] * 4
        assert all("rank00003-0000.safetensors is damaged: its sha256 is" in str(outcome) for outcome in outcomes)
