"""What a folder that is not there could be made by."""

import pytest

from editcaption_mega.settings import hub_hint


@pytest.mark.parametrize(
    ("folder", "hint"),
    [
        (
            "models/Qwen3-VL-2B-Instruct",
            "; download it: hf download Qwen/Qwen3-VL-2B-Instruct --local-dir models/Qwen3-VL-2B-Instruct",
        ),
        (
            "/data/Qwen3-VL-235B-A22B-Thinking-FP8",
            "; download it: hf download Qwen/Qwen3-VL-235B-A22B-Thinking-FP8 --local-dir "
            "/data/Qwen3-VL-235B-A22B-Thinking-FP8",
        ),
        (
            "Someone/tuned",
            "; if this is a name on the Hugging Face hub, run: hf download Someone/tuned --local-dir Someone/tuned",
        ),
        ("runs/tuned", ""),
        ("./a/b", ""),
        ("Qwen3-VL-2B", ""),
        ("/nowhere/at-all", ""),
    ],
)
def test_the_folder_that_was_asked_for_is_the_one_that_is_made(tmp_path, monkeypatch, folder, hint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    assert hub_hint(folder) == hint
