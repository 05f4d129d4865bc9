"""The first captioner: wrong in the instruction, never in the pictures or the truth."""

import random

import pytest

from editcaption_mega.data.synthetic import WorldSettings, plan_pair, render_pair
from editcaption_mega.data.synthetic.mistakes import mistaken
from editcaption_mega.data.synthetic.named_changes import named_changes
from editcaption_mega.data.synthetic.phrasing import every_facts, phrase_each
from editcaption_mega.records.pair import FAILURE_MODES


@pytest.mark.parametrize("mode", FAILURE_MODES)
def test_a_certain_mistake_is_of_its_failure_mode(mode):
    """For every edit of the grammar: what the captioner says has this failure mode by the rules, or is left alone."""
    rng = random.Random(1)
    seen, edits = set(), {}
    for facts in every_facts():
        edits.setdefault(facts["action"], []).append(facts)
    for facts in [facts for some in edits.values() for facts in rng.sample(some, min(60, len(some)))]:
        (said,), modes = mistaken([facts], {mode: 1.0}, rng)
        assert (said != facts) == bool(modes), (facts, said)
        if said != facts:
            assert phrase_each(said), "the mistake can be said"
            assert said["action"] == facts["action"] and modes == (mode,)
            seen.add(facts["action"])
    expected = {
        "orientation": {"add", "move", "text", "camera_pan", "mirror"},
        "viewpoint": {"camera_zoom"},
        "detail": {"add", "remove", "replace", "count", "background", "recolour", "retexture", "tone", "move", "resize",
                   "text"},
    }  # fmt: skip
    assert seen == expected[mode]


def test_the_truth_and_the_pictures_stay():
    plain, wrong = WorldSettings(), WorldSettings(caption_mistakes={"orientation": 1.0, "viewpoint": 1.0})
    told = 0
    for index in range(60):
        one, other = plan_pair(plain, 1, index).pair, plan_pair(wrong, 1, index).pair
        assert one.changes == other.changes and one.edit_type == other.edit_type
        modes = set(other.provenance.get("caption_mistakes", ()))
        found = {mode for change in named_changes(other.instruction, other.changes) for mode in change.failure_modes}
        assert (one.instruction != other.instruction) == bool(modes)
        assert modes <= found or not modes
        told += bool(modes)
    assert told > 15
    assert render_pair(plain, 1, 3).target.tobytes() == render_pair(wrong, 1, 3).target.tobytes()


def test_the_rate_is_the_share_of_mistakes():
    settings = WorldSettings(edit_types=("camera_pan",), caption_mistakes={"orientation": 0.7})
    wrong = sum("caption_mistakes" in plan_pair(settings, 4, i).pair.provenance for i in range(600))
    assert abs(wrong / 600 - 0.7) < 0.06


@pytest.mark.parametrize("rates", [{"orientation": 1.5}, {"colour": 0.1}, {"detail": "often"}, 0.5])
def test_bad_rates_are_refused(rates):
    with pytest.raises(ValueError, match="caption_mistakes .*share"):
        WorldSettings(caption_mistakes=rates)
