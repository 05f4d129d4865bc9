"""The text of a task: of a model's samples the most frequent one, or why there is none."""

from types import SimpleNamespace

from editcaption_mega.curation.people.drafts import Draft, most_frequent_text, sampled_drafts


def sample(text, finished=True):
    return {"instruction": text, "finished": finished}


def test_the_most_frequent_whole_text_of_what_was_sampled():
    samples = {
        "a": [sample("x y"), sample("x z"), sample(" x z "), sample("x z and", False)],
        "b": [sample("cut", False), sample("")],
    }
    found = list(sampled_drafts(SimpleNamespace(ids=["a", "b"]), samples, {"model": "m"})())
    assert found == [(0, Draft("x z", {"model": "m", "times": 2, "of": 4})), (1, "the model wrote nothing whole")]


def test_of_equals_the_first():
    assert most_frequent_text(["b", "a"], 3, {}) == Draft("b", {"times": 1, "of": 3})
    assert most_frequent_text(["..", ""], 2, {}) is None
