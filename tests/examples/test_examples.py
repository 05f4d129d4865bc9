"""Every example runs, and prints or writes what it says."""

import importlib.util
import json
import re
import runpy
import shutil
from pathlib import Path

import pytest

from editcaption_mega.settings import save_settings
from tests.docs.pages import ROOT, Page
from tests.helpers import small_job

NOTEBOOK = "from_pairs_to_captions.ipynb"
NAMES = ("kernels_on_a_transformers_model", "own_objective", "read_shards", "score_an_instruction")


def example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_listed_and_has_a_test():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(NAMES)
    listed = {Path(target).name for _, target in Page(ROOT / "examples" / "README.md").links()}
    assert listed == {f"{name}.py" for name in NAMES} | {NOTEBOOK}
    tests = Path(__file__).read_text(encoding="utf-8")
    assert all(f'example("{name}")' in tests for name in NAMES)


@pytest.mark.parametrize("name", ["own_objective", "read_shards"])
def test_an_example_without_its_arguments_says_how_it_is_used(name, capsys, monkeypatch):
    path = ROOT / "examples" / f"{name}.py"
    monkeypatch.setattr("sys.argv", [str(path)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 2 and capsys.readouterr().err.startswith(f"usage: python examples/{name}.py ")


def test_kernels_on_a_transformers_model(capsys):
    example("kernels_on_a_transformers_model").main()
    apart = [float(number) for number in re.findall(r"at most (\S+)", capsys.readouterr().out)]
    assert len(apart) == 2 and max(apart) < 1e-5


def test_scores_of_instructions(capsys):
    example("score_an_instruction").main()
    scores = [float(line.split()[0]) for line in capsys.readouterr().out.splitlines() if "accuracy" in line]
    assert scores == sorted(scores, reverse=True) and scores[0] == 5 and len(set(scores)) == 4


def test_shards_read_in_two_ways(capsys, tmp_path):
    example("read_shards").main(str(small_job.write_shards(tmp_path / "shards", count=4)))
    first, *ours, _, third, fourth = capsys.readouterr().out.splitlines()
    assert first.startswith("4 pairs") and len(ours) == 2
    assert all(": (" in line for line in (third, fourth)) and third != fourth


@pytest.mark.parametrize("made", [False, True])
def test_reading_shards_of_a_folder_that_has_none_ends_with_a_sentence(capsys, tmp_path, monkeypatch, made):
    folder = tmp_path / "shards"
    if made:
        folder.mkdir()
    path = ROOT / "examples/read_shards.py"
    monkeypatch.setattr("sys.argv", [str(path), str(folder)])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(path), run_name="__main__")
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {folder}")


def test_an_objective_of_ones_own_trains_resumes_and_is_not_taken_for_another(tmp_path):
    from editcaption_mega.training import run_sft

    folder, shards = small_job.write_folder(tmp_path / "model"), small_job.write_shards(tmp_path / "shards")
    settings = small_job.job(folder, shards, tmp_path / "run")
    save_settings(settings, tmp_path / "job.yaml")
    own = example("own_objective")
    assert own.main(str(tmp_path / "job.yaml"), "training.stop_after=3").step == 3
    assert own.main(str(tmp_path / "job.yaml")).step == 6
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < rows[0]["loss"] and all(0 <= row["sure"] <= 1 for row in rows)
    with pytest.raises(ValueError, match="objective=focal"):
        run_sft(settings)


def notebook_cells():
    notebook = json.loads((ROOT / "examples" / NOTEBOOK).read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and all(cell["source"] for cell in notebook["cells"])
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_notebook_is_kept_without_results():
    cells = notebook_cells()
    assert len(cells) >= 6 and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


@pytest.mark.slow
def test_the_cells_of_the_notebook_run_in_their_order(capfd, monkeypatch):
    """Each as a kernel has it, in one namespace; the model then knows its pairs."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    namespace = {"__name__": "__main__"}
    for number, cell in enumerate(notebook_cells()):
        exec(compile("".join(cell["source"]), f"{NOTEBOOK}, code cell {number}", "exec"), namespace)
    rows, captions = namespace["rows"], namespace["captions"]
    right = sum(row["instruction"] == caption for row, caption in zip(rows, captions, strict=True))
    assert len(rows) == 10 and right >= 9, list(zip(rows, captions, strict=True))
    assert namespace["result"].checkpoint.is_dir() and "written    " in capfd.readouterr().out
    shutil.rmtree(namespace["work"])
