import numpy as np

from editcaption_mega.curation.measures.mirror_test import mirror_problems
from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.data.shards.reader import open_shards
from tests.helpers.curate import curate
from tests.helpers.small_pairs import ANSWERS, write_pairs


def test_mirrored_shards_have_flipped_pictures_and_say_nothing(tmp_path):
    shards = write_pairs(tmp_path / "shards", [None, ANSWERS[0]])
    assert curate("mirror", "--shards", shards, "--output", tmp_path / "mirrored") == 0
    before, after = open_shards(shards), open_shards(tmp_path / "mirrored")
    assert after.ids == before.ids and after.fingerprint != before.fingerprint
    for i in range(2):
        for side in ("source", "target"):
            flipped = np.asarray(decode_image(after.picture(i, side)))
            assert (flipped == np.asarray(decode_image(before.picture(i, side)))[:, ::-1]).all()
        pair = after.pair(i)
        assert pair.provenance["mirrored"] is True
        assert {pair.instruction, pair.chosen, pair.rejected, pair.changes} == {None}
        assert (pair.category, pair.edit_type) == (before.pair(i).category, before.pair(i).edit_type)


def test_left_and_right_must_change_places():
    assert mirror_problems("Move the cup left.", "Move the cup right.") == []
    (problem,) = mirror_problems("Move the cup left.", "Move the cup left.")
    assert problem == "left here, left for the mirrored pair"
    assert mirror_problems("把杯子向左移动", "Move the cup to the right") == []
    assert mirror_problems('Write "left" on it', 'Write "left" on it') == []
