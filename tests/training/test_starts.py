"""What a start does with the data, counted: the first shares it among the ranks, and later ones read none of it."""

import json
import pickle
import shutil

import numpy as np
import pytest

from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.data.batching.job_samples import JobSamples
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.data.batching.packing import Packer
from editcaption_mega.data.shards import reader, shard_columns
from editcaption_mega.data.shards.reader import ShardError
from editcaption_mega.data.start_tables import JobShards
from editcaption_mega.settings import PreferenceSettings
from editcaption_mega.training import reference_table
from editcaption_mega.training.pair_facts import pair_facts
from editcaption_mega.training.reference_table import read_reference
from editcaption_mega.training.setup import measure_samples
from tests.helpers import preference_job, small_job
from tests.helpers.ranks import on_ranks

PAIRS = 9


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("starts")
    small_job.write_folder(root / "model")
    preference_job.write_shards(root / "pairs", PAIRS)
    pairs = dataset(root, None)
    with open(root / "reference.jsonl", "w") as file:
        file.write(json.dumps({"fingerprint": {"weights": "w"}}) + "\n")
        for i in range(PAIRS):
            values = [[-i - k / 7 for k in range(len(answer))] for answer in pairs.sample(i).answers]
            chosen, rejected = ({"log_prob": sum(part), "token_log_probs": part} for part in values)
            file.write(json.dumps({"id": pairs.id(i), "chosen": chosen, "rejected": rejected}) + "\n")
    return root


def dataset(root, shards):
    return open_pairs(
        shards or [str(root / "pairs")], root / "model", min_pixels=1024, max_pixels=1 << 20, answers="preference"
    )


class Work:
    """What is counted while it is open: indices that were checked, records and lines that were read."""

    def __enter__(self):
        self.indices, self.records, self.lines = [], [], []
        self._old = shard_columns.load_index, reader.ShardReader.pair, reference_table._Lines._checked
        load_index, pair, checked = self._old

        def counted(folder, check=True):
            self.indices += [folder] * check
            return load_index(folder, check=check)

        shard_columns.load_index = counted
        reader.ShardReader.pair = lambda shards, i: self.records.append(i) or pair(shards, i)
        reference_table._Lines._checked = lambda lines, i, *rest: self.lines.append(i) or checked(lines, i, *rest)
        return self

    def __exit__(self, *_):
        shard_columns.load_index, reader.ShardReader.pair, reference_table._Lines._checked = self._old


def start(base, run, reference=None):
    """-> the work, and all that the start knows of the data."""
    with Work() as work:
        shards = JobShards(JobSamples([base / "pairs"]), run / "tables")
        shards.keep()
        pairs = dataset(base, shards.reader)
        lengths = measure_samples(pairs, 512, run / "tables")
        facts = pair_facts(pairs, PreferenceSettings(severity_margin=2.0), run / "tables")
        packed = SequenceReader(pairs, lengths, Packer(pairs.images, 1, 2, 8, 512))
        path = reference or base / "reference.jsonl"
        log_probs = read_reference(path, packed, {"weights": "w"}, run / "tables", sums=True)
    known = [(pairs.id(i), facts[i], log_probs[i].tolist(), lengths.table[i].tolist()) for i in range(PAIRS)]
    return (len(work.indices), work.records, work.lines), known


def on_a_rank(rank, base, run):
    return start(base, run)


def test_ranks_share_the_first_start_and_the_next_reads_no_record(base, tmp_path):
    _, expected = start(base, tmp_path / "alone")
    for path in (base / "pairs").glob("lengths-*"):
        path.unlink()  # as if no job had been there
    first = on_ranks(on_a_rank, tmp_path, base, tmp_path / "run")
    assert all(known == expected for _, known in first)
    indices, records, lines = zip(*(work for work, _ in first), strict=True)
    assert indices == (1, 0), "rank 0 checks the index for all"
    assert sorted(records[0] + records[1]) == sorted([*range(PAIRS)] * 2), "once for lengths and once for tags"
    assert len(records[0]) < 2 * PAIRS > len(records[1]) and lines[0] + lines[1] == list(range(PAIRS)) and all(lines)
    following = on_ranks(on_a_rank, tmp_path, base, tmp_path / "run")
    assert [work for work, _ in following] == [(1, [], []), (0, [], [])]
    assert all(known == expected for _, known in following)
    work, known = start(base, tmp_path / "run")
    assert work == (1, [], []) and known == expected, "also with another number of ranks"


def test_what_changed_is_read_again(base, tmp_path):
    start(base, tmp_path / "run")
    content = (base / "reference.jsonl").read_text()
    (tmp_path / "other.jsonl").write_text(content)
    work, _ = start(base, tmp_path / "run", tmp_path / "other.jsonl")
    assert work == (1, [], list(range(PAIRS))), "another file of log-probs"
    shutil.copytree(base, tmp_path / "moved", ignore=shutil.ignore_patterns("reference.jsonl"))
    work, _ = start(tmp_path / "moved", tmp_path / "run", tmp_path / "other.jsonl")
    assert work == (1, [], []), "another folder with the same pairs"


def test_a_damaged_number_is_noticed_where_a_step_reads_it(base, tmp_path):
    start(base, tmp_path / "run")
    (path,) = (tmp_path / "run/tables").glob("reference*")
    content = bytearray(path.read_bytes())
    content[-4 * PAIRS - 2] ^= 1  # in the last of the values, before the checksums
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"is damaged: the log-probs of sample number {PAIRS - 1} are not those"):
        start(base, tmp_path / "run")


def test_mapped_shards_travel_to_other_processes_as_a_path(base, tmp_path):
    start(base, tmp_path / "run")
    shards = JobShards(JobSamples([base / "pairs"]), tmp_path / "run/tables").reader
    sent = pickle.dumps(shards)
    again = pickle.loads(sent)
    assert isinstance(again.columns.offset, np.memmap) and again[3].pair == shards[3].pair
    assert shards.ids[0].encode() not in sent and list(again.ids) == list(shards.ids)


def test_a_tar_that_was_cut_is_refused_at_a_later_start_too(base, tmp_path):
    shutil.copytree(base, tmp_path / "cut")
    start(tmp_path / "cut", tmp_path / "run")
    (tar,) = (tmp_path / "cut/pairs").glob("*.tar")
    tar.write_bytes(tar.read_bytes()[:-100])
    with pytest.raises(ShardError, match="the tar is truncated or was changed"):
        JobShards(JobSamples([tmp_path / "cut/pairs"]), tmp_path / "run/tables")
