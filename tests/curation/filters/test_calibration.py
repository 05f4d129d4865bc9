import json
import math

import numpy as np
import pytest

from editcaption_mega.curation.filters.calibration import NoThresholdError, calibrate, read_labels
from editcaption_mega.evaluation.stats.intervals import wilson_interval


def labeled(count, seed, sharpness=2.0):
    """A slice whose chance of being right grows with its score, as a judge's would: (values, labels)."""
    generator = np.random.default_rng(seed)
    scores = np.round(generator.uniform(0, 10, count), 1)
    right = generator.random(count) < 1 / (1 + np.exp(-sharpness * (scores - 4.5)))
    ids = [f"s{seed}-{i}" for i in range(count)]
    return dict(zip(ids, scores.tolist(), strict=True)), dict(zip(ids, right.tolist(), strict=True))


@pytest.mark.parametrize(("sharpness", "least_recall"), [(1.0, 0.55), (2.0, 0.75)])  # 0.69 and 0.92 are possible
def test_another_slice_has_the_wished_precision_within_its_interval(sharpness, least_recall):
    reached, refused, recalls = 0, 0, []
    for seed in range(30):
        try:
            calibration = calibrate(*labeled(800, seed, sharpness), 0.95)
        except NoThresholdError:
            refused += 1
            continue
        values, labels = labeled(800, 1000 + seed, sharpness)
        passing = [labels[key] for key in values if values[key] >= calibration.chosen.threshold]
        reached += wilson_interval(sum(passing), len(passing))[1] >= 0.95
        recalls.append(sum(passing) / sum(labels.values()))
    print(f"{reached} of 30 reach 95 % within their interval, {refused} refused, mean recall {np.mean(recalls):.3f}")
    assert reached >= 28, "a 95 % interval may miss now and then"
    assert np.mean(recalls) > least_recall, "a threshold that lets little pass is easily precise"


def test_low_values_may_be_the_good_ones():
    values, labels = labeled(800, 5)
    high = calibrate(values, labels, 0.95)
    low = calibrate({key: -value for key, value in values.items()}, labels, 0.95, keeps_high=False)
    assert low.chosen.threshold == -high.chosen.threshold and low.measured.precision == high.measured.precision


def test_the_threshold_is_a_value_and_equal_values_stay_together():
    values, labels = labeled(400, 3)
    values = {key: float(math.floor(value)) for key, value in values.items()}
    calibration = calibrate(values, labels, 0.9)
    assert calibration.chosen.threshold in set(values.values())
    passing = [key for key in values if values[key] >= calibration.chosen.threshold]
    whole = next(p for p in calibration.curve if p.threshold == calibration.chosen.threshold)
    assert whole.passing == len(passing)
    assert whole.precision == pytest.approx(sum(labels[key] for key in passing) / len(passing))


def test_where_no_threshold_reaches_it_that_is_said():
    values, labels = labeled(600, 7)
    coin = {key: bool(value) for key, value in zip(labels, np.random.default_rng(1).random(600) < 0.6, strict=True)}
    with pytest.raises(
        NoThresholdError, match=r"no threshold of success reaches a precision of 0.95: the best, .*; label more"
    ):
        calibrate(values, coin, 0.95, name="success")
    with pytest.raises(NoThresholdError):
        calibrate(values, dict.fromkeys(labels, False), 0.5)


def test_a_threshold_that_other_labels_contradict_is_refused(monkeypatch):
    """A column that is noise has thresholds that are right by luck; without caution they would be chosen."""
    monkeypatch.setattr("editcaption_mega.curation.filters.calibration._CAUTION", 0.0)
    generator = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(3000)]
    labels = dict(zip(ids, (generator.random(3000) < 0.7).tolist(), strict=True))
    messages = []
    for _ in range(40):
        values = dict(zip(ids, generator.random(3000).tolist(), strict=True))
        try:
            calibrate(values, labels, 0.725, name="luck")
        except NoThresholdError as error:
            messages.append(str(error))
    contradicted = [text for text in messages if "on the labels that chose it and of" in text]
    assert len(contradicted) >= 2 and all(
        text.endswith("which is below 0.725: label more pairs") for text in contradicted
    )


def test_few_labels_are_refused():
    values, labels = labeled(39, 0)
    with pytest.raises(ValueError, match="39 labeled pairs have a value of it: a threshold needs 40 or more"):
        calibrate(values, labels, 0.9)


def test_labels_are_read_strictly(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"id": "a", "label": true}\n\n{"id": "b", "label": false, "by": "x"}\n')
    assert read_labels(path) == {"a": True, "b": False}
    for line, words in {
        '{"id": "a", "label": 1}': "line 1: expected", "[]": "line 1: expected", "{": "line 1: not valid JSON",
        json.dumps({"id": "a", "label": True}) + "\n" + json.dumps({"id": "a", "label": False}): "both true and false",
    }.items():  # fmt: skip
        path.write_text(line + "\n")
        with pytest.raises(ValueError, match=words):
            read_labels(path)
