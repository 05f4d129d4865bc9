"""The benchmarks run, and what they compare is the same work."""

import json
import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT, warm

BENCH = ROOT / "tools/bench.py"


def bench(folder, *arguments):
    command = [sys.executable, str(BENCH), *map(str, arguments), "--repeats", "1", "--output", str(folder)]
    done = warm.run(command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith((folder / f"{arguments[0]}.md").read_text())  # TRL prints too
    return {row["name"]: row for row in json.loads((folder / f"{arguments[0]}.json").read_text())["records"]}


def test_shared_rows_hold_each_prompt_once_and_give_the_same_loss(tmp_path):
    rows = bench(tmp_path, "dpo-rows", "--prompt", 256, "--response", 8)
    shared, plain = rows["shared prompt"], rows["two plain sequences"]
    assert (shared["tokens"], plain["tokens"]) == (256 + 2 * 8, 2 * (256 + 8))
    assert shared["losses"] == pytest.approx(plain["losses"], rel=1e-5)


def test_a_bench_starts_from_any_folder(tmp_path):
    """Under -P the folder of a script is not where Python looks for modules."""
    sizes = ["--requests", "10", "--concurrency", "2", "--latency", "0.001"]
    command = [sys.executable, "-P", str(BENCH), "client", *sizes, "--output", "out"]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and (tmp_path / "out/client.md").read_text() == done.stdout, done.stderr


@pytest.mark.slow
def test_an_import_is_the_same_set_for_any_number_of_processes(tmp_path):
    rows = bench(tmp_path, "import", "--pairs", 200, "--side", 48, "--workers", 1, 2)
    one, two = rows["1 worker(s)"], rows["2 worker(s)"]
    assert one["fingerprint"] == two["fingerprint"] and one["pairs"] == 200
    assert one["ratio"] == 1 and two["ratio"] > 0 and one["bytes"] > one["quarter_bytes"] / 2 > 0


@pytest.mark.slow
def test_conversions_are_measured_against_copying(tmp_path):
    sizes = ["--gigabytes", 0.05, "--workers", 2, "--repeats", 1, "--folder", tmp_path]
    done = warm.run([sys.executable, str(BENCH), "conversion", *map(str, sizes), "--output", str(tmp_path / "out")])
    assert done.returncode == 0, done.stderr
    (record,) = json.loads((tmp_path / "out/conversion.json").read_text())["records"]
    assert 30e6 < record["bytes"] < 1e9 and record["workers"] == 2
    for way in ("hf_to_megatron", "megatron_to_hf"):
        assert record["ratio"][way] > 0 and 100e6 < record["anonymous_bytes"][way] < 2e9
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.slow
def test_adapters_take_a_part_of_the_memory(tmp_path):
    rows = bench(tmp_path, "lora", "--gigabytes", 0.5)
    assert rows["all weights"]["state_bytes_ratio"] == 1
    for kind in ("LoRA", "LoRA of attention"):
        assert rows[kind]["state_bytes_ratio"] <= 0.03 and rows[kind]["peak_bytes_ratio"] <= 0.5
    assert rows["LoRA"]["state_bytes"] < rows["DoRA"]["state_bytes"] < 0.03 * rows["all weights"]["state_bytes"]


@pytest.mark.slow
def test_captions_are_counted_by_who_was_asked(tmp_path):
    sizes = ["--requests", 200, "--concurrency", 8, "--latency", 0.001, "--workers", 1, 2]
    done = warm.run([sys.executable, str(BENCH), "captions", *map(str, sizes), "--output", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    alone, *runs = json.loads((tmp_path / "captions.json").read_text())["records"]
    assert alone["captions_per_second"] > 0 and [run["workers"] for run in runs] == [1, 2]
    for run in runs:
        assert (run["lost"], run["asked_again"]) == (0, 0) and run["client_ms"] > 0 < run["server_ms"]


def test_without_a_compiler_for_the_server_no_pair_is_made(tmp_path):
    done = warm.run(
        [sys.executable, str(BENCH), "captions", "--output", str(tmp_path)], env={**os.environ, "CXX": "no-such-c++"}
    )
    assert done.returncode == 2 and "no C++ compiler no-such-c++" in done.stderr and "pairs of" not in done.stderr


@pytest.mark.slow
def test_a_start_is_measured_phase_by_phase(tmp_path):
    done = warm.run([sys.executable, str(BENCH), "start", "--listed-pairs", "300", "--output", str(tmp_path)])
    assert done.returncode == 0, done.stderr
    records = json.loads((tmp_path / "start.json").read_text())["records"]
    first, following = ([row for row in records if row["start"] == which] for which in ("first", "next"))
    assert [row["phase"] for row in first] == [row["phase"] for row in following] and len(first) == 7
    seconds = {row["phase"]: row["processor_seconds"] for row in first}
    assert all(row["processor_seconds"] < seconds[row["phase"]] for row in following if row["phase"] == "lengths")
    assert "| next | **all** | **" in done.stdout


@pytest.mark.slow
def test_the_loader_is_faster_and_what_reaches_the_model_is_the_same(tmp_path):
    rows = bench(tmp_path, "loader", "--picture-pairs", 4, "--samples", 8)
    assert rows["this loader"]["largest_difference"] == 0, "both sides' tensors are compared"
    assert rows["webdataset + processor"]["times_ours"] > 2
    assert {"main thread, threads", "main thread, processes"} <= rows.keys()


@pytest.mark.slow
def test_steps_of_trl_have_the_same_losses(tmp_path):
    pytest.importorskip("trl")
    rows = list(bench(tmp_path, "dpo-step", "--pairs", 4).values())
    assert len(rows) >= 2 and len(rows[0]["losses"]) >= 2
    for row in rows[1:]:
        assert row["losses"] == pytest.approx(rows[0]["losses"], abs=1e-5)


@pytest.mark.slow
def test_steps_at_the_proportions_of_training_have_the_same_losses(tmp_path):
    pytest.importorskip("trl")
    rows = bench(tmp_path, "dpo", "--pairs", 1)
    ours, resident, trl = rows.values()
    assert 2 * 1024 + 2 * 100 < ours["tokens"] < 2 * 1024 + 2 * 100 + 200, "pictures, answers, and a prompt's text"
    assert len(ours["losses"]) >= 2 and trl["losses"] == pytest.approx(ours["losses"], abs=1e-5)
    assert resident["losses"] == pytest.approx(ours["losses"], abs=1e-5)
    assert trl["time_ratio"] > 1 and trl["memory_ratio"] > 1


@pytest.mark.slow
def test_a_layer_and_transformers_own_compute_the_same(tmp_path):
    rows = bench(tmp_path, "layer", "--layer-tokens", 96, "--layer-hidden", 64)
    assert {name.split(":")[0] for name in rows} == {"decoder layer, dense", "decoder layer, experts", "vision block"}
    assert len(rows) == 6 and all(row["apart"] <= 1e-4 for row in rows.values())


@pytest.mark.slow
def test_sft_steps_of_a_plain_loop_have_the_same_losses(tmp_path):
    """TRL's are means over its micro-batches' means, of other token counts."""
    pytest.importorskip("trl")
    rows = bench(tmp_path, "sft", "--pairs", 4)
    ours, loop, trl = (rows[name]["losses"] for name in ("ours", "transformers, plain loop", "TRL SFTTrainer"))
    assert len(ours) >= 2 and loop == pytest.approx(ours, abs=1e-5) and trl == pytest.approx(ours, rel=5e-3)


@pytest.mark.slow
def test_every_candidate_of_the_kernels_is_measured(tmp_path):
    rows = bench(tmp_path, "kernels", "--rows", 16, "--tokens", 64, "--vocab", 512, "--hidden", 32)
    assert {"ours", "PyTorch eager", "torch.compile", "Megatron-Core fused"} <= rows.keys()
    assert [row["error"] for row in rows.values() if "error" in row] == []


@pytest.mark.parametrize(
    "arguments, told",
    [
        (["dpo-step", "--pairs", "3"], "--pairs must be a multiple of 4 (TRL takes 4 at a time), found 3"),
        (["dpo-rows", "--prompt", "8"], "--prompt must be at least 64, to hold two pictures, found 8"),
        (["layer", "--layer-hidden", "96"], "--layer-hidden must be a multiple of 64, found 96"),
        (["kernels", "--rows", "9", "--tokens", "8"], "--rows 9 are part of --tokens 8 and can't be more"),
    ],
)
def test_bad_arguments_are_told_before_any_work(tmp_path, arguments, told):
    command = [sys.executable, str(BENCH), *arguments, "--output", str(tmp_path / "out")]
    done = (warm.run_cold if arguments[0] == "kernels" else warm.run)(command)  # one real start
    assert done.returncode == 2 and told in done.stderr
    assert not (tmp_path / "out").exists()
