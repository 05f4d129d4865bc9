"""Every example runs, and prints or writes what it says."""

import importlib.util
import json
import re
import runpy
from pathlib import Path

import pytest

from editcaption_mega.settings import save_settings
from tests.docs.pages import ROOT, Page
from tests.helpers import small_job

NAMES = ("kernels_on_a_transformers_model", "own_objective", "read_shards", "score_an_instruction")


def example(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_listed_and_has_a_test():
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} == set(NAMES)
    assert {Path(target).stem for _, target in Page(ROOT / "examples" / "README.md").links()} == set(NAMES)
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
