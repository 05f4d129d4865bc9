"""What annotators file in Label Studio, good and bad, and what the importer has to make of it."""

import pytest

from editcaption_mega.evaluation.label_studio.verdict_tasks import pull_verdicts
from tests.helpers import human_study


def choices(name, *values):
    return {"from_name": name, "to_name": "instruction", "type": "choices", "value": {"choices": list(values)}}


def annotate(client, task, *fields, **more):
    client.call("POST", f"/api/tasks/{task}/annotations/", {"result": list(fields), "lead_time": 3.0, **more})


def box(x, y, width, height):
    value = {"x": x, "y": y, "width": width, "height": height, "rotation": 0, "rectanglelabels": ["affected region"]}
    fixed = {"original_width": 64, "original_height": 64, "type": "rectanglelabels", "id": f"box{x}"}
    return {"from_name": "region", "to_name": "after", "value": value, **fixed}


REMARK = {
    "from_name": "remark",
    "to_name": "instruction",
    "type": "textarea",
    "value": {"text": ["left is <b>right</b>"]},
}


def work(client, project):
    """What annotators might file for the seven tasks, by any means: two good answers, the others not."""
    listed = client.call("GET", "/api/tasks/", project=project, page=1, page_size=100, include="id")["tasks"]
    while len(listed) < 7:
        page = len(listed) // 3 + 1
        listed += client.call("GET", "/api/tasks/", project=project, page=page, page_size=3, include="id")["tasks"]
    tasks = [task["id"] for task in listed]
    annotate(client, tasks[0], choices("severity", "P0"), choices("P0", "P0-2", "P0-4"), REMARK)
    annotate(
        client, tasks[1], choices("severity", "P1"), choices("P1", "P1-3"), box(10, 10, 20, 20), box(20, 20, 20, 20)
    )
    annotate(client, tasks[2], choices("severity", "correct"), choices("P0", "P0-2"))  # contradicts itself
    annotate(client, tasks[3], choices("severity", "P0"), choices("P0", "P0-1"), choices("P1", "P1-5"))
    annotate(client, tasks[4], was_cancelled=True)
    annotate(client, tasks[5], choices("P2", "P2-7"))  # no severity
    annotate(client, tasks[6], choices("severity", "P2"), choices("P2", "P2-7"))
    annotate(client, tasks[6], choices("severity", "correct"))  # the same annotator again
    return tasks


def check_work(client, title, key):
    found = pull_verdicts(client, title, key)
    first, second = sorted(found.accepted, key=lambda verdict: verdict.severity)
    assert (first.severity, first.rows, first.remark) == ("P0", [2, 4], "left is <b>right</b>")
    assert (second.severity, second.rows, second.region_share) == ("P1", [3], pytest.approx(0.07))
    assert first.annotator == "user-1" and first.model in human_study.MODELS and len(found.unanswered) == 5
    reasons = sorted(refused.reason for refused in found.refused)
    expected = [
        "H1: P1-5 is filed beside the verdict P0", "H1: P0-2 is filed beside the verdict correct",
        "H1: one verdict per pair, but this annotator filed 2", "H1: one verdict per pair, but this annotator filed 2",
        "H1: one verdict per pair, found 0", "skipped by the annotator",
    ]  # fmt: skip
    assert len(reasons) == 6
    for start, reason in zip(sorted(expected), reasons, strict=True):
        assert reason.startswith(start)
