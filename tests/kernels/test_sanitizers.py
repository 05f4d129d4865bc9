"""The kernels' tests once more, on a build with AddressSanitizer and UBSan (`make sanitize` runs only this)."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.helpers import ROOT


def preload() -> str | None:
    """The sanitizers' runtime, which has to come before Python's own libraries."""
    if shutil.which("g++") is None:
        return None
    found = [
        subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    return ":".join(found) if all(map(os.path.isabs, found)) else None


@pytest.mark.slow
@pytest.mark.skipif(preload() is None, reason="g++ or its sanitizers aren't here")
def test_the_cpu_variant_is_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path):
    for folder in ("csrc", "editcaption_mega", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("_C*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    environment = {**os.environ, "EDITCAPTION_SANITIZE": "1", "PYTHONPATH": str(tmp_path)}
    build = [sys.executable, "setup.py", "build_ext", "--inplace"]
    subprocess.run(build, cwd=tmp_path, env=environment, check=True, capture_output=True)
    environment |= {
        "LD_PRELOAD": preload(),
        # Python and PyTorch leave memory behind at exit; the kernels' own errors stop the run.
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    }
    names = ("test_log_probs.py", "test_statistics.py", "test_preference.py", "test_errors.py")
    chosen = [f"tests/kernels/{name}" for name in names]
    without = "not emulated and not compile and not extension"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", without, *chosen]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    report = found.stdout[-4000:] + found.stderr[-4000:]
    assert found.returncode == 0 and "Sanitizer" not in report and "runtime error" not in report, report
    assert " passed" in found.stdout
