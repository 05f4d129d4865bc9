"""curate.py's steps with people, as they are typed: tasks out, answers in, and what goes wrong in a sentence."""

import pytest

from editcaption_mega import cli
from editcaption_mega.curation.people.task_records import read_pair_tasks
from editcaption_mega.data import open_shards
from tests.helpers.people_tasks import Study, answer, write_answers, write_columns, write_shards
from tests.tools.test_exit_codes import main_of


@pytest.fixture(scope="module")
def curate():
    main = main_of("curate")
    return lambda *words: cli.exit_code(main, [str(word) for word in words])


@pytest.fixture
def study(tmp_path, curate):
    reader = write_shards(tmp_path / "shards", 4)
    rows = [{"instruction": f"Move number {at} to the left"} for at in range(4)]
    captions = write_columns(tmp_path / "captions.jsonl", reader, rows)
    score = write_columns(tmp_path / "score.jsonl", reader, [{"agreement": at / 4} for at in (3, 0, 2, 1)], "score")
    words = ["--captions", captions, "--folder", tmp_path / "tasks", "--first", f"{score}:agreement", "--page", 3]
    assert curate("preference-export", "--shards", tmp_path / "shards", *words) == 0
    return Study(reader, captions, tmp_path / "tasks", *read_pair_tasks(tmp_path / "tasks"))


def test_out_and_in_again(study, curate, tmp_path, capsys):
    assert [task.pair for task in study.tasks.values()] == [study.reader.ids[at] for at in (1, 3, 2, 0)]
    assert sorted(path.name for path in study.folder.glob("*.html")) == ["review-001.html", "review-002.html"]
    answers = write_answers(tmp_path / "a.jsonl", [answer(study, at) for at in range(3)])
    words = ["--shards", tmp_path / "shards", "--folder", study.folder, "--answers", answers]
    assert curate("preference-import", *words, "--output", tmp_path / "pairs") == 0
    assert "3 pairs from 3 answers" in capsys.readouterr().out
    made = open_shards(tmp_path / "pairs")
    assert len(made) == 3 and made.pair(0).chosen.endswith("right") and made.pair(0).severity == 1.0
    assert curate("preference-import", *words, "--output", tmp_path / "pairs") == 2  # nothing is overwritten


def test_a_models_own_texts_become_tasks_that_carry_their_hardness(study, curate, tmp_path, capsys):
    own = [study.reader.pair(at).instruction for at in range(4)]
    rows = [{"instruction": own[0]}] + [{"instruction": f"Move {at} to the left"} for at in (1, 2, 3)]
    captions = write_columns(tmp_path / "sft.jsonl", study.reader, rows)
    texts = write_columns(tmp_path / "a.jsonl", study.reader, [{"log_prob": x} for x in (-1.0, -9.0, -2.0, -5.0)])
    truth = write_columns(tmp_path / "b.jsonl", study.reader, [{"log_prob": -4.0} for _ in range(4)])
    words = ["--shards", tmp_path / "shards", "--captions", captions, "--folder", tmp_path / "pool"]
    words += ["--hardness", f"{texts}:log_prob", f"{truth}:log_prob", "--limit", 2]
    assert curate("sample-rejected", *words) == 0
    out = capsys.readouterr().out
    assert "1 left out: already_correct" in out and "1 left out: beyond the limit" in out
    made = Study(study.reader, captions, tmp_path / "pool", *read_pair_tasks(tmp_path / "pool"))
    assert [task.pair for task in made.tasks.values()] == [study.reader.ids[at] for at in (2, 3)]
    answers = write_answers(tmp_path / "x.jsonl", [answer(made, 0), answer(made, 1)])
    words = ["--shards", tmp_path / "shards", "--folder", tmp_path / "pool", "--answers", answers]
    assert curate("preference-import", *words, "--output", tmp_path / "pairs") == 0
    pair = open_shards(tmp_path / "pairs").pair(0)
    assert pair.provenance["preference"]["hardness"] == 2.0 and pair.rejected == "Move 2 to the left"


def test_refused_answers_are_said_and_the_rest_is_written(study, curate, tmp_path, capsys):
    rows = [answer(study, 0), answer(study, 1, severity=None)]
    answers = write_answers(tmp_path / "a.jsonl", rows)
    words = ["--shards", tmp_path / "shards", "--folder", study.folder, "--answers", answers]
    assert curate("preference-import", *words, "--output", tmp_path / "pairs") == 1
    out = capsys.readouterr().out
    assert "refused: a.jsonl line 2" in out and "it has no severity" in out and "1 pair from 1 answer; 1 refused" in out
    assert curate("refine-import", *words, "--output", tmp_path / "other") == 1
    assert "use preference-import" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["preference-export"], 2, "give --captions FILE.jsonl"),
        (["refine-export", "--first", "x.jsonl"], 2, "names no column"),
        (["refine-export", "--captions", "nowhere.jsonl"], 2, "does not exist"),
        (["refine-export", "--document-root", "elsewhere"], 2, "must lie in a folder of --document-root"),
        (
            ["refine-export", "--label-studio", "http://127.0.0.1:9", "--token-env", "NO_SUCH"],
            2,
            "no token: set NO_SUCH",
        ),
        (["sample-rejected"], 2, "give --model DIR or --captions FILE.jsonl"),
        (
            ["sample-rejected", "--captions", "drafts.jsonl", "--seed", "1"],
            2,
            "--seed has a meaning with --model only: give both, or neither",
        ),
        (["sample-rejected", "--output", "new"], 2, "give --output DIR where the truth is machine-readable, or"),
        (["refine-import", "--output", "new"], 2, "give --answers FILE.jsonl or --label-studio URL"),
    ],
)
def test_bad_arguments_end_with_2_before_any_work(study, curate, tmp_path, capsys, words, code, message):
    command, *rest = words
    folder = study.folder if "import" in command else tmp_path / "new"
    assert curate(command, "--shards", tmp_path / "shards", "--folder", folder, *rest) == code
    assert message in capsys.readouterr().err and not (tmp_path / "new").exists()
