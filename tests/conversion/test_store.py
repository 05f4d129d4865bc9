"""Stores that are damaged, or were made to be so: noticed, with the file named, before any value is used."""

import json
import os
import random
import stat

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from editcaption_mega.conversion import (
    Box,
    DamagedCheckpointError,
    StoreReader,
    StoreWriter,
    WeightSource,
    verify_checkpoint,
)
from editcaption_mega.conversion.tensor_file import DTYPES, sha256_of, write_tensors
from tests.helpers import small_store
from tests.helpers.ranks import on_ranks


@pytest.fixture
def store(tmp_path):
    return small_store.write(tmp_path / "store")


def sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_flipped_bit_anywhere_is_noticed_and_its_file_named(store):
    files = sorted(path for path in store.rglob("*") if path.is_file())
    assert {path.name for path in files} > {"tensors.json", "state.json", "config.json", "chat_template.jinja"}
    dice = random.Random(11)
    for trial in range(2 * len(files)):
        path = files[trial % len(files)]
        position = dice.randrange(8 * path.stat().st_size)
        small_store.flip(path, position)
        with pytest.raises(DamagedCheckpointError) as error:
            verify_checkpoint(store)
        assert str(path) in sentence(error)
        small_store.flip(path, position)
    assert torch.equal(verify_checkpoint(store).read("weights/x"), small_store.WHOLE)


def test_every_bit_of_the_manifest_counts(store):
    manifest = store / "tensors.json"
    for position in range(0, 8 * manifest.stat().st_size, 409):
        small_store.flip(manifest, position)
        with pytest.raises(DamagedCheckpointError, match="tensors.json is damaged"):
            StoreReader(store)
        small_store.flip(manifest, position)


def test_only_what_is_needed_is_read(store):
    """Moments matter to a resume and not to a conversion; side files to both."""
    held = {key: {part.file for part in tensor.boxes} for key, tensor in StoreReader(store).tensors.items()}
    moments = sorted(held["exp_avg/x"] - held["weights/x"])[0]
    small_store.flip(store / moments, 8 * (store / moments).stat().st_size - 1)
    verify_checkpoint(store, tensors="weights/")
    with pytest.raises(DamagedCheckpointError, match=moments):
        verify_checkpoint(store)
    (store / "hf/config.json").write_text("{}")
    for verify in (lambda: verify_checkpoint(store, tensors="weights/"), lambda: WeightSource.of(store)):
        with pytest.raises(DamagedCheckpointError, match="hf/config.json is damaged"):
            verify()
    assert WeightSource.of(store, verify=False).folder == store / "hf"


def test_a_file_that_was_put_beside_them_is_not_the_model_s(store):
    (store / "hf/.DS_Store").write_text("a file browser's")
    (store / "notes.txt").write_text("somebody's")
    verify_checkpoint(store)
    (store / "hf/added_tokens.json").write_text("{}")
    with pytest.raises(DamagedCheckpointError, match="hf/added_tokens.json is not among the files.*remove it"):
        verify_checkpoint(store, tensors="weights/")


def refusal(rank, store):
    with pytest.raises(DamagedCheckpointError) as error:
        verify_checkpoint(store)
    return str(error.value)


def test_two_ranks_share_the_files_and_raise_alike(tmp_path):
    """Each damaged file is seen by one rank only; both name the first, and count the rest."""
    store = small_store.write(tmp_path / "store")
    for path in sorted(store.glob("rank*"))[:3]:
        small_store.flip(path, 8 * path.stat().st_size - 1)
    first, second = on_ranks(refusal, tmp_path, store)
    assert first == second and "rank00000-0000.safetensors" in first and "(and 2 more files)" in first


def failure_to_write(rank, folder):
    writer = StoreWriter(folder, max_file_bytes=40)
    for i in range(5):
        writer.add("x", (10, 10), Box((5 * rank + i, 0), (1, 10)), torch.zeros(10))
    with pytest.raises(OSError) as error:
        writer.finish()
    return str(error.value)


def test_a_rank_that_cannot_write_fails_every_rank(tmp_path):
    folder = tmp_path / "store"
    (folder / "rank00001-0001.safetensors").mkdir(parents=True)  # in the way of rank 1's second file
    first, second = on_ranks(failure_to_write, tmp_path, folder)
    assert first == second and "(rank 1 on " in first and "rank00001-0001" in first
    assert not (folder / "tensors.json").exists()


def test_a_store_without_checksums_loads_and_says_so(store, capsys):
    small_store.without_checksums(store)
    reader = verify_checkpoint(store)
    assert torch.equal(reader.read("weights/x"), small_store.WHOLE)
    assert capsys.readouterr().out.count("cannot be verified") == 1


def boxes(values, key="weights/x"):
    return values["tensors"][key]["boxes"]


@given(shape=st.lists(st.integers(1, 5), max_size=4).map(tuple), data=st.data())
def test_a_flat_range_is_the_boxes_that_hold_it_in_order(shape, data):
    """Against the elements' numbers: each once, in order, with as few boxes as the docstring says."""
    numbers = torch.arange(torch.Size(shape).numel()).view(shape)
    start = data.draw(st.integers(0, numbers.numel()))
    end = data.draw(st.integers(start, numbers.numel()))
    offset = tuple(range(3, 3 + len(shape)))
    whole = Box(offset, shape)
    boxes = list(whole.flat_range(start, end))
    held = [numbers[box.within(whole)].flatten() for box in boxes]
    assert torch.cat([numbers.flatten()[:0], *held]).tolist() == list(range(start, end))
    assert len(boxes) <= max(1, 2 * len(shape) - 1) and all(box.size for box in boxes)


def test_ranges_are_written_and_read_like_the_box_that_they_make(tmp_path):
    values, box = torch.arange(24.0), Box((0, 1, 0), (2, 3, 4))
    writer = StoreWriter(tmp_path)
    for start, end in ((0, 7), (7, 7), (7, 22), (22, 24)):
        writer.add_range("x", (2, 4, 4), box, start, values[start:end])
    writer.add("x", (2, 4, 4), Box((0, 0, 0), (2, 1, 4)), torch.zeros(8))
    writer.finish()
    reader = StoreReader(tmp_path)
    assert torch.equal(reader.read("x", box).flatten(), values)
    for start, end in ((0, 24), (5, 6), (3, 23), (9, 9)):
        assert torch.equal(reader.read_range("x", box, start, end), values[start:end])


REFUSED = {
    "overlap": (lambda v: boxes(v)[1].update(start=[0, 0]), "overlap"),
    "partial overlap": (
        lambda v: [boxes(v)[0].update(length=[2, 6]), boxes(v)[1].update(start=[0, 5], length=[2, 4])], "overlap",
    ),
    "a hole": (lambda v: boxes(v).pop(), "hold 50 of 60 values"),
    "outside": (lambda v: boxes(v)[1].update(start=[5, 5]), "lies outside"),
    "negative start": (lambda v: boxes(v)[1].update(start=[-1, 5]), "lies outside"),
    "negative length": (lambda v: boxes(v)[1].update(length=[-2, -5]), "lies outside"),
    "other axes": (lambda v: boxes(v)[1].update(start=[0, 5, 0]), "number of axes"),
    "a tensor without boxes": (lambda v: boxes(v).clear(), "hold 0 of 60 values"),
    "huge": (lambda v: v["tensors"]["weights/x"].update(shape=[6, 10**30]), "values"),
    "used twice": (lambda v: boxes(v)[1].update(inside=boxes(v)[0]["inside"], file=boxes(v)[0]["file"]), "used twice"),
    "file not listed": (lambda v: boxes(v)[0].update(file="other.safetensors"), "not among its files"),
    "parent": (lambda v: v["files"].update({"../x": {"bytes": 1, "sha256": "0" * 64}}), "not inside the folder"),
    "absolute": (lambda v: v["files"].update({"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}), "not inside"),
    "no checksum": (lambda v: v["files"]["state.json"].update(sha256=None), "has no checksum"),
    "short checksum": (lambda v: v["files"]["state.json"].update(sha256="00"), "files.state.json.sha256"),
    "dtype": (lambda v: v["tensors"]["weights/x"].update(dtype="Tensor"), "dtype"),
    "missing field": (lambda v: v["tensors"]["weights/x"].pop("shape"), "shape is missing"),
    "unknown field": (lambda v: v.update(pickle="x"), "pickle"),
    "later format": (lambda v: v.update(format=3), "has format 3, this version reads 1 and 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_manifest_that_lies_is_refused(store, name):
    change, words = REFUSED[name]
    small_store.rewrite(store, lambda values: change(values) and None)
    with pytest.raises(ValueError) as error:
        StoreReader(store)
    assert words in sentence(error) and str(store / "tensors.json") in sentence(error)


@pytest.mark.parametrize("change", [{"dtype": "int32"}, {"shape": [10, 6]}])
def test_a_header_that_differs_from_the_manifest_is_refused(store, change):
    """Same size, so nothing but the header tells."""

    def turn(values):
        values["tensors"]["weights/x"].update(change)
        if "shape" in change:
            for box in boxes(values):
                box["start"].reverse()
                box["length"].reverse()

    small_store.rewrite(store, turn)
    with pytest.raises(DamagedCheckpointError, match=r"is F32 of shape \[2, 5\], tensors.json says"):
        StoreReader(store).read("weights/x")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_what_is_read_stays_when_its_file_changes_and_what_is_viewed_is_the_file(tmp_path, mode):
    writer, whole = StoreWriter(tmp_path), Box((0, 0), (4, 6))
    writer.add("x", (4, 6), whole, torch.ones(4, 6))
    writer.finish()
    (path,) = tmp_path.glob("*.safetensors")
    with mode():
        reader = StoreReader(tmp_path)
        read = [reader.read("x"), reader.read("x", Box((1, 2), (3, 3)))]
        viewed = reader.view("x", whole)
        path.write_bytes(path.read_bytes()[: -4 * 24] + bytes(4 * 24))
        assert all(torch.equal(values, torch.ones(values.shape)) and values.is_contiguous() for values in read)
        assert not viewed.any()


def test_a_region_that_the_tensor_lacks_is_refused(store):
    reader = StoreReader(store)
    for box in (Box((0, 0), (7, 10)), Box((0,), (6,))):
        with pytest.raises(ValueError, match="another model"):
            reader.read("weights/x", box)


ANY_VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), st.just([]), st.just({}),
    st.lists(st.one_of(st.integers(), st.text(max_size=2), st.none()), max_size=3),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


def places(value, path=()):
    """Every path into nested JSON values."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(value, path, new):
    if not path:
        return new
    items = dict(value) if isinstance(value, dict) else list(value)
    items[path[0]] = replaced(items[path[0]], path[1:], new)
    return items


@given(data=st.data(), checksums=st.booleans())
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_field_of_any_other_type_is_one_sentence_or_the_right_values(store, data, checksums):
    """All fields x all types of JSON, in both formats: never another error, never other values."""
    path = store / "tensors.json"
    whole = path.read_bytes()
    try:
        if not checksums:
            small_store.without_checksums(store)
        values = json.loads(path.read_bytes())
        values.pop("sha256", None)
        place = data.draw(st.sampled_from(sorted(places(values), key=str)))
        new = replaced(values, place, data.draw(ANY_VALUE))
        if checksums and isinstance(new, dict):
            path.write_bytes(small_store.with_own_digest(new))
        else:
            path.write_text(json.dumps(new))
        try:
            reader = verify_checkpoint(store)
            for key in ("weights/x", "exp_avg/x"):
                assert torch.equal(reader.read(key), small_store.WHOLE)
        except ValueError as error:
            assert str(store) in str(error) and "\n" not in str(error)
            assert type(error) in (ValueError, DamagedCheckpointError)
    finally:
        path.write_bytes(whole)


@given(
    cuts=st.tuples(st.sets(st.integers(1, 11), max_size=4), st.sets(st.integers(1, 7), max_size=4)),
    moved=st.none() | st.tuples(st.integers(0, 30), st.integers(0, 1), st.sampled_from([-1, 1])),
)
@settings(max_examples=50, deadline=None)
def test_exactly_the_partitions_are_accepted(cuts, moved):
    from editcaption_mega.conversion.manifest import StoredBox, _cover_problem

    ends = [[0, *sorted(cut), length] for cut, length in zip(cuts, (12, 8), strict=True)]
    stored = [
        StoredBox(start=[a, b], length=[c - a, d - b], inside="", file="")
        for a, c in zip(ends[0], ends[0][1:], strict=False)
        for b, d in zip(ends[1], ends[1][1:], strict=False)
    ]
    if moved:
        box, axis, by = stored[moved[0] % len(stored)], moved[1], moved[2]
        box.start[axis] += by
    count = torch.zeros(12, 8, dtype=torch.int)
    inside = all(s >= 0 and s + n <= w for b in stored for s, n, w in zip(b.start, b.length, (12, 8), strict=True))
    if inside:
        for box in stored:
            count[box.box.within(Box.whole((12, 8)))] += 1
    assert (_cover_problem((12, 8), stored) is None) == (inside and bool((count == 1).all()))


def test_a_tensor_file_is_what_safetensors_reads(tmp_path):
    """All dtypes, sizes and shapes; the digest is that of the file; the mode is the umask's."""
    tensors = {str(d).removeprefix("torch."): torch.arange(6).reshape(2, 3).to(d) for d in DTYPES}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "turned": torch.arange(6.0).view(2, 3).t()}
    before = os.umask(0o027)
    try:
        digest = write_tensors(tmp_path / "ours.safetensors", tensors, {"format": "pt"})
    finally:
        os.umask(before)
    assert digest == sha256_of(tmp_path / "ours.safetensors")
    assert stat.S_IMODE((tmp_path / "ours.safetensors").stat().st_mode) == 0o640
    back = load_file(tmp_path / "ours.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert (back[name].dtype, back[name].shape) == (tensor.dtype, tensor.shape), name
        assert back[name].float().equal(tensor.float()), name
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "theirs.safetensors", {"format": "pt"})
    assert (tmp_path / "theirs.safetensors").stat().st_size == (tmp_path / "ours.safetensors").stat().st_size
