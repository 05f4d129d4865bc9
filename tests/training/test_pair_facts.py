"""What DPO's objective must know of each pair: read once over all ranks, and refused alike by all of them."""

import pytest

from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.objectives import PairFacts
from editcaption_mega.settings import PreferenceSettings, SettingsError
from editcaption_mega.training.pair_facts import pair_facts
from tests.helpers import preference_job, small_job
from tests.helpers.ranks import on_ranks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_job.write_folder(tmp_path_factory.mktemp("facts") / "model")


def dataset(folder, shards):
    return open_pairs([str(shards)], folder, min_pixels=1024, max_pixels=1 << 20, answers="preference")


def test_failure_modes_and_the_margin_of_the_severity(folder, tmp_path):
    pairs = dataset(folder, preference_job.write_shards(tmp_path / "pairs", 5, failure_modes=[]))
    facts = pair_facts(pairs, PreferenceSettings(severity_margin=2.0))
    assert len(facts) == 5
    assert facts[0] == PairFacts((), 0.0)  # an empty list is a tag too
    assert facts[4] == PairFacts(("viewpoint", "detail"), 2.0)


def test_the_weight_of_the_primary_failure_mode(folder, tmp_path):
    pairs = dataset(folder, preference_job.write_shards(tmp_path / "pairs", 5))
    weights = {"viewpoint_weight": 3.0, "detail_weight": 5.0, "orientation_weight": 7.0}
    facts = pair_facts(pairs, PreferenceSettings(severity_margin=2.0, hardness_margin=0.5, **weights))
    assert facts[0] == PairFacts(("orientation",), 0.0, 3.5)
    assert facts[4] == PairFacts(("viewpoint", "detail"), 6.0, 1.5)
    untagged = dataset(folder, preference_job.write_shards(tmp_path / "untagged", 2, failure_modes=None))
    with pytest.raises(SettingsError, match="says no failure_modes, and .*preference.viewpoint_weight=3.0"):
        pair_facts(untagged, PreferenceSettings(severity_margin=2.0, failure_mode_metrics=False, **weights))


def facts_and_reads(rank, folder, shards):
    pairs, reads = dataset(folder, shards), []
    read = pairs.shards.pair
    pairs.shards.pair = lambda i: reads.append(i) or read(i)
    facts = pair_facts(pairs, PreferenceSettings())
    return [facts[i] for i in range(len(facts))], reads


def test_each_pair_is_read_by_one_rank(folder, tmp_path):
    shards = preference_job.write_shards(tmp_path / "pairs", 5)
    (first, reads), (second, other_reads) = on_ranks(facts_and_reads, tmp_path, folder, shards)
    assert first == second and len(first) == 5
    assert sorted(reads + other_reads) == [0, 1, 2, 3, 4] and reads and other_reads


def test_all_ranks_name_the_first_pair_that_lacks_something(folder, tmp_path):
    """It is another rank's share for one of them, and a later pair lacks it too."""
    shards = preference_job.write_shards(tmp_path / "pairs", 5, failure_modes=None)
    errors = on_ranks(facts_and_reads, tmp_path, folder, shards)
    assert all(type(error) is SettingsError for error in errors) and str(errors[0]) == str(errors[1])
    assert "says no failure_modes, and preference.failure_mode_metrics asks" in str(errors[0])
