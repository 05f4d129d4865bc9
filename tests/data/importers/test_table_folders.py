"""Folders as `datasets` saves them: written here by the library itself."""

import json

import datasets
import pytest

from editcaption_mega.data.importers import FORMATS, ImportOptions
from editcaption_mega.data.importers.candidates import InputError
from tests.helpers.image_bytes import encoded, photo

PLACES = {"source": "before", "target": "after", "instruction": "text", "id": "id"}


def read(path, **options):
    options = {"columns": PLACES, "category": "semantic"} | options
    return list(FORMATS["table"].read(str(path), ImportOptions(**options)))


def saved(path, count=7, shards=3, first=0):
    features = datasets.Features(
        id=datasets.Value("int64"), before=datasets.Image(), after=datasets.Image(), text=datasets.Value("string"),
        score=datasets.Sequence(datasets.Value("float32")),
    )  # fmt: skip
    rows = {
        "id": list(range(first, first + count)),
        "before": [{"bytes": encoded(photo(8, 6 + i)), "path": None} for i in range(count)],
        "after": [{"bytes": encoded(photo(9, 6 + i), "JPEG"), "path": None} for i in range(count)],
        "text": [f"Add hat {i}." for i in range(count)],
        "score": [[0.5, i] for i in range(count)],
    }
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(str(path), num_shards=shards)
    return data


def test_a_saved_set_of_several_arrow_files_is_read_in_the_order_of_its_state(tmp_path):
    saved(tmp_path / "s")
    assert len(list((tmp_path / "s").glob("*.arrow"))) == 3
    (tmp_path / "s/cache-1234567890abcdef.arrow").write_bytes((tmp_path / "s/data-00000-of-00003.arrow").read_bytes())
    rows = read(tmp_path / "s")
    assert [row.pair.id for row in rows] == [str(i) for i in range(7)], "what a map left there is no part of it"
    assert rows[6].source == encoded(photo(8, 12)) and rows[6].pair.provenance["score"] == [0.5, 6.0]
    assert FORMATS["table"].count(str(tmp_path / "s"), ImportOptions(columns=PLACES)) == 7


def test_of_several_splits_one_must_be_named(tmp_path):
    both = datasets.DatasetDict(train=saved(tmp_path / "a"), test=saved(tmp_path / "b", first=100))
    both.save_to_disk(str(tmp_path / "both"))
    with pytest.raises(InputError, match=r"holds the splits 'train', 'test': name the folder of one"):
        read(tmp_path / "both")
    assert len(read(tmp_path / "both/test")) == 7
    datasets.DatasetDict(train=saved(tmp_path / "c")).save_to_disk(str(tmp_path / "one"))
    assert len(read(tmp_path / "one")) == 7


def test_a_state_that_does_not_fit_its_folder_is_refused(tmp_path):
    saved(tmp_path / "s")
    state = json.loads((tmp_path / "s/state.json").read_text())
    (tmp_path / "s/data-00001-of-00003.arrow").unlink()
    with pytest.raises(InputError, match="state.json lists 'data-00001-of-00003.arrow', which is not beside it"):
        read(tmp_path / "s")
    for broken, words in (
        (state | {"_indices_data_files": [{"filename": "indices.arrow"}]}, "save what flatten_indices"),
        (state | {"_data_files": []}, "lists no files"),
        (state | {"_data_files": [{"filename": "../s/data-00000-of-00003.arrow"}]}, "not beside it"),
        ([], "holds list, expected an object"),
    ):
        (tmp_path / "s/state.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=words):
            read(tmp_path / "s")
