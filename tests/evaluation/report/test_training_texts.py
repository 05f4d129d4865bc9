"""The texts of a run's evaluations as a report takes them."""

import json

import pytest

from editcaption_mega.evaluation.report.training_texts import read_texts


def line(step, text, pair="a/1", finished=True, **more):
    values = {"step": step, "id": pair, "text": text, "finished": finished, "tokens": 3, "reference": "Make it red."}
    return json.dumps(values | {"picture": "samples/00.webp"} | more) + "\n"


def folder_of(path, *lines):
    path.mkdir(exist_ok=True)
    (path / "samples.jsonl").write_text("".join(lines))
    return path


def test_neighbors_that_are_the_same_are_one(tmp_path):
    texts = ["Make.", "Make.", "Make it red.", "Make."]
    rows = [line(50 * k, text, pair) for k, text in enumerate(texts, start=1) for pair in ("a/1", "b/2")]
    first, second = read_texts("SFT", folder_of(tmp_path, *rows))
    assert (first.id, second.id, first.reference, first.picture) == ("a/1", "b/2", "Make it red.", "")
    assert [(one.steps, one.text, one.right) for one in first.texts] == [
        ("50–100", "Make.", False), ("150", "Make it red.", True), ("200", "Make.", False),
    ]  # fmt: skip
    assert first.shown == list(first.texts)


def test_a_text_that_was_cut_is_not_right_and_differs_from_the_whole(tmp_path):
    rows = [line(1, "Make it red.", finished=False), line(2, "Make it red.")]
    (pair,) = read_texts("SFT", folder_of(tmp_path, *rows))
    assert [(one.finished, one.right) for one in pair.texts] == [(False, False), (True, True)]


def test_of_many_texts_a_few_are_shown_with_the_first_and_the_last(tmp_path):
    (pair,) = read_texts("SFT", folder_of(tmp_path, *(line(step, f"Text {step}.") for step in range(1, 1001))))
    assert len(pair.texts) == 1000 and len(pair.shown) == 8 == len({one.first for one in pair.shown})
    assert (pair.shown[0].steps, pair.shown[-1].steps) == ("1", "1,000")


def test_pictures_are_those_of_the_folder_alone(tmp_path):
    (tmp_path / "secret.webp").write_bytes(b"no")
    (tmp_path / "run/samples").mkdir(parents=True)
    (tmp_path / "run/samples/00.webp").write_bytes(b"RIFF")
    rows = [line(1, "x", "a"), line(1, "x", "b", picture="../secret.webp"), line(1, "x", "c", picture="samples/1.svg")]
    pictures = [pair.picture for pair in read_texts("SFT", folder_of(tmp_path / "run", *rows))]
    assert pictures == ["data:image/webp;base64,UklGRg==", "", ""]


def test_a_run_without_texts_and_one_that_goes_on(tmp_path):
    assert read_texts("SFT", tmp_path) == []
    (pair,) = read_texts("SFT", folder_of(tmp_path, line(1, "Make."), '{"step": 2, "id": "a/1", "te'))
    assert [one.steps for one in pair.texts] == ["1"]


@pytest.mark.parametrize(
    "damaged, message",
    [
        ("nothing\n", "Expecting value"),
        ("[1]\n", "it is no object"),
        (line(1, 5), "it lacks text"),
        (line(True, "x"), "it lacks step"),
        ('{"step": 1}\n', "it lacks id, text, finished, reference, picture"),
    ],
)
def test_damage_is_named_with_its_line(tmp_path, damaged, message):
    with pytest.raises(ValueError, match=rf"training run SFT: .*samples.jsonl, line 2: {message}"):
        read_texts("SFT", folder_of(tmp_path, line(1, "Make."), damaged, line(2, "Make.")))
