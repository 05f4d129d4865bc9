"""Annotators who know the truth: right where they do not err, wrong where they do, refused never; in any tool."""

import json
from dataclasses import replace

import pytest

from editcaption_mega.curation.demo.filing import file_as_jsonl, file_in_label_studio
from editcaption_mega.curation.demo.known_truth import verdict_of
from editcaption_mega.curation.demo.simulated_people import SimulatedAnnotator
from editcaption_mega.curation.people.pair_answers import check_answers
from editcaption_mega.curation.people.people_projects import pull_pair_answers, push_pair_tasks
from editcaption_mega.curation.scores.directions import opposite
from editcaption_mega.evaluation.human.filed_answers import Filed, read_answers
from editcaption_mega.evaluation.label_studio.api import LabelStudio
from tests.helpers.people_tasks import Study, write_study
from tests.helpers.scripted_label_studio import LEGACY_TOKEN, scripted_label_studio

FORMS = ("refine", "preference")
PAIRS = 24


@pytest.fixture(scope="module", params=FORMS)
def study(request, tmp_path_factory) -> Study:
    """Every second draft is right, the others have their directions turned, or are of another pair."""
    made = write_study(tmp_path_factory.mktemp(request.param), request.param, PAIRS)
    truth = [made.reader.pair(at) for at in range(PAIRS)]
    for at, name in enumerate(made.names):
        pair = truth[at]
        wrong = opposite(pair.instruction) or truth[(at + 1) % PAIRS].instruction
        text = pair.instruction if at % 2 else wrong
        made.tasks[name] = made.tasks[name].model_copy(update={"text": text})
    path = made.folder / "tasks.jsonl"
    path.write_text("".join(json.dumps(task.to_json()) + "\n" for task in made.tasks.values()))
    return made


def annotators(study, error_rate, count=2):
    truth = {pair.id: pair for pair in map(study.reader.pair, range(PAIRS))}
    return [SimulatedAnnotator(number, error_rate, truth) for number in range(1, count + 1)]


def right_after(study, annotator):
    """Of each task, whether what the answer makes of its text is right."""
    marks = []
    for task in study.tasks.values():
        answer = annotator.answer(study.form, task)
        text = answer.get("text", task.text)
        correct = verdict_of(text, annotator.truth[task.pair]).correct
        marks.append(correct and answer["verdict"] != "unusable")
    return marks


def test_who_never_errs_is_always_right_and_who_always_errs_never(study):
    (careful,), (careless,) = annotators(study, 0.0, 1), annotators(study, 1.0, 1)
    assert all(right_after(study, careful)) and not any(right_after(study, careless))
    filed = [
        Filed("x", annotator.answer(study.form, task) | {"annotator": str(annotator.error_rate)})
        for annotator in (careful, careless)
        for task in study.tasks.values()
    ]
    checked = check_answers(filed, study.form, study.tasks)
    assert not checked.refused and len(checked.accepted) == 2 * PAIRS
    verdicts = {answer.verdict for answer in checked.accepted if answer.annotator == "1.0"}
    assert "already_correct" in verdicts and verdicts - {"already_correct"}


def test_they_err_as_often_as_is_said_each_on_tasks_of_their_own(study):
    first, second = annotators(study, 0.3)
    marks = [right_after(study, replace(one, seed=seed)) for seed in range(20) for one in (first, second)]
    share = sum(map(sum, marks)) / (len(marks) * PAIRS)
    assert 0.65 < share < 0.75 and marks[0] != marks[1]
    assert right_after(study, first) == right_after(study, first)


def test_the_same_comes_back_from_a_file_and_from_label_studio_also_after_a_stop(study, tmp_path):
    people = annotators(study, 0.3)
    assert file_as_jsonl(study.folder, people, tmp_path / "a.jsonl") == 2 * PAIRS
    from_file = check_answers(read_answers(tmp_path / "a.jsonl"), study.form, study.tasks)
    with scripted_label_studio() as server:
        client = LabelStudio(server.url, LEGACY_TOKEN)
        push_pair_tasks(client, study.folder, "t", annotators=2)

        def stopping(items, *_):
            yield from (item for item, _ in zip(items, range(30), strict=False))

        file_in_label_studio(client, "t", study.folder, people, stopping)
        assert file_in_label_studio(client, "t", study.folder, people) == 2 * PAIRS - 30
        assert file_in_label_studio(client, "t", study.folder, people) == 0
        pulled = check_answers(pull_pair_answers(client, "t"), study.form, study.tasks)
        assert [user["email"] for user in server.users[1:]] == ["annotator-1@example.com", "annotator-2@example.com"]
    assert not from_file.refused and not pulled.refused

    def said(checked, prefix, first):
        rows = []
        for answer in checked.accepted:
            who = int(answer.annotator.removeprefix(prefix)) - first
            rows.append((answer.task, who, answer.verdict, answer.tags, answer.seconds))
            rows[-1] += (answer.text, answer.level) if answer.verdict == "corrected" else (answer.remark,)
        return sorted(rows, key=str)

    assert said(from_file, "annotator-", 1) == said(pulled, "user-", 2)
