"""Copies are found as what they are, by a search that compares few of all pairs, and nothing else is."""

import importlib.util
import random
import sys

import numpy as np
import pytest

from editcaption_mega.data.duplicates.duplicate_search import KINDS, SearchedSet, find_duplicates
from editcaption_mega.data.duplicates.neighbors import band_bits
from editcaption_mega.data.duplicates.picture_marks import SetMarks
from tests.helpers import ROOT

spec = importlib.util.spec_from_file_location("duplicates_bench", ROOT / "tools/benches/duplicates.py")
bench = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = bench
spec.loader.exec_module(bench)


@pytest.fixture(scope="module")
def originals():
    return bench.rendered(180)


@pytest.fixture(scope="module")
def marks(originals):
    return bench.marked(originals)


def joined(*parts):
    return SetMarks(*(np.concatenate(values) for values in zip(*(vars(part).values() for part in parts), strict=True)))


def some(marks, places):
    return SetMarks(marks.file[places], marks.pixels[places], marks.thumbnails[places])


def search(*marks, evaluation=(), **options):
    sets = [SearchedSet(f"set{k}", None, of, k in evaluation) for k, of in enumerate(marks)]
    return find_duplicates(sets, **options), sets


def test_planted_copies_are_found_and_told_apart(originals):
    records = {row["name"]: row for row in bench.planted_records(originals, 40)}
    for kind in ("re-encoded", "resized", "mirrored"):
        assert (records[kind]["found"], records[kind]["named"]) == (10, 10), records
    assert records["cropped"]["found"] >= 4, records
    assert records["false alarms"]["found"] == 0 and records["false alarms"]["of"] == 180


@pytest.mark.parametrize("bits", [12, 16, 21])
def test_wide_bands_find_what_narrow_ones_do(originals, marks, bits):
    """A million pairs have bands of 21 bits; probes make up for what those would miss."""
    rng = random.Random(1)
    copies = bench.marked([bench.copied("resized", originals[at], rng) for at in range(40)])
    found, _ = search(joined(marks, copies), bits=bits)
    assert [(d.place, d.other_place, d.kind) for d in found.pairs] == [(180 + k, k, KINDS[2]) for k in range(40)]


def test_the_same_pixels_and_the_same_files_are_told_apart(marks):
    copies = some(marks, [3, 4])
    copies.file[1] += 1
    found, _ = search(joined(marks, copies))
    assert [(d.place, d.other_place, d.kind, d.difference) for d in found.pairs] == [
        (180, 3, "the same files", 0.0),
        (181, 4, "the same pixels", 0.0),
    ]


def test_swapped_pairs_are_found_exactly_and_saved_anew(originals, marks):
    # An edit that mirrors or hardly changes is its own swap; a clear one is taken.
    light = marks.thumbnails[..., :256].astype(int)
    clear = [int(k) for k in np.argsort(-np.abs(light[:, 0] - light[:, 1]).mean(1))[:2]]
    exact, again = clear
    other = bench.copied("re-encoded", originals[again][::-1], random.Random(2))
    swapped = some(marks, [exact])
    swapped = SetMarks(swapped.file[:, ::-1], swapped.pixels[:, ::-1], swapped.thumbnails[:, ::-1])
    found, _ = search(joined(marks, swapped, bench.marked([other])))
    assert [(d.place, d.other_place, d.kind, d.swapped) for d in found.pairs] == [
        (180, exact, "the same files", True),
        (181, again, KINDS[2], True),
    ]


def test_source_and_target_that_are_the_same_picture(marks):
    own = some(marks, np.arange(10))
    own.pixels[7, 1] = own.pixels[7, 0]
    found, _ = search(own)
    assert found.unchanged == [(0, 7)] and found.pairs == []


def test_an_evaluation_set_is_said_of_its_own_pairs_wherever_it_is_named(originals, marks):
    copy = bench.marked([bench.copied("resized", originals[11], random.Random(3)), originals[20]])
    for order in ((copy, marks), (marks, copy)):
        place = 0 if order[0] is copy else 1
        found, sets = search(*order, evaluation={place})
        assert {(d.set, d.place, d.other_place) for d in found.pairs} == {(place, 0, 11), (place, 1, 20)}
        assert len(found.of_evaluation(sets)) == 2
    found, sets = search(marks, copy)
    assert len(found.pairs) == 2 and found.of_evaluation(sets) == []


def test_an_evaluation_pair_that_shares_one_picture_is_listed_apart(originals, marks):
    source = bench.copied("resized", originals[11], random.Random(3))[0]
    mixed = bench.marked([(source, originals[77][1])])
    found, sets = search(marks, mixed, evaluation={1})
    assert found.pairs == []
    (shared,) = found.shared
    assert (shared.set, shared.place) == (1, 0) and sum(shared.sides) == 1 and shared.difference < 3
    assert shared.other_place in (11, 77)
    found, _ = search(marks, mixed)  # among training sets many edits of one picture are as it should be
    assert found.shared == []


def test_a_pair_in_two_sets_is_said_of_each(marks):
    found, _ = search(some(marks, np.arange(5)), some(marks, [2]), some(marks, [2, 9]))
    assert {(d.set, d.place, d.other_set, d.other_place) for d in found.pairs} == {
        (1, 0, 0, 2),
        (2, 0, 0, 2),
        (2, 0, 1, 0),
    }


def test_many_of_one_look_are_compared_up_to_a_number_and_counted(marks):
    """Identical pictures are found by their hashes however many there are; what else is left out is said."""
    plain = some(marks, np.zeros(400, int))
    plain.pixels[:] = np.arange(800).reshape(400, 2)
    plain.file[:] = plain.pixels
    found, _ = search(plain)
    assert found.left_out > 0 and len(found.pairs) >= 390
    found, _ = search(some(marks, np.zeros(400, int)))
    assert [(d.place, d.other_place) for d in found.pairs] == [(k, 0) for k in range(1, 400)]


def test_bands_grow_with_the_set():
    assert [band_bits(count) for count in (2, 4000, 100_000, 2_000_000, 1 << 30)] == [12, 12, 17, 21, 21]


@pytest.mark.slow
def test_the_full_set_reaches_its_bars():
    """2,000 pairs, 200 of them copies: recall 0.98 of re-encoded and resized ones, false alarms 0.5 %."""
    records = {row["name"]: row for row in bench.planted_records(bench.rendered(1800), 200)}
    for kind in ("re-encoded", "resized"):
        assert records[kind]["named"] >= 0.98 * records[kind]["of"], records
    assert records["mirrored"]["named"] >= 0.98 * records["mirrored"]["of"], records
    assert records["false alarms"]["found"] <= 0.005 * records["false alarms"]["of"], records
