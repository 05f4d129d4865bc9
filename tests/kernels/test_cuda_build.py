"""What can be shown of the CUDA variant without a GPU: it compiles without spills, links, loads, and fails clearly."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import setuptools
import torch

from editcaption_mega.kernels import compiled
from tests.helpers import ROOT

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc isn't here")


# Kernels of each source, and in how many forms they are compiled (element types, with and without details).
KERNELS = {
    "log_probs": {"stats": 6, "backward": 3, "finalize": 2},
    "experts": {"count_choices": 1, "scan_choices": 1, "place_choices": 1, "chunk_order": 1, "sum_rows": 6},
    "elementwise": {
        "swiglu": 6, "swiglu_backward": 6, "rotate": 8, "rms_norm": 12, "rms_norm_backward": 12,
    },
}  # fmt: skip


@needs_nvcc
@pytest.mark.parametrize(
    ("arch", "source"),
    [
        pytest.param(arch, source, marks=[] if source == "log_probs" or arch == 90 else [pytest.mark.slow])
        for arch in (80, 90, 100)
        for source in KERNELS
    ],
)
def test_no_kernel_spills_registers(arch, source, tmp_path):
    command = ["nvcc", "-std=c++17", "-O3", f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin", "-DECM_WITH_CUDA=1"]
    command += ["-Icsrc", "-o", str(tmp_path / "kernels.cubin"), f"csrc/{source}.cu"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    kernels = re.findall(r"Compiling entry function '\w*?_cu_[0-9a-f]{8}_?\d+([a-z_]+)_kernel", told)
    assert {name.lstrip("_"): kernels.count(name) for name in set(kernels)} == KERNELS[source], told
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", told)
    assert len(spills) == len(kernels) and set(spills) == {("0", "0", "0")}


@needs_nvcc
def test_the_extension_has_the_cuda_variant():
    assert compiled.EXTENSION is not None and compiled.EXTENSION.CUDA_ARCHITECTURES


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.skipif(not getattr(compiled.EXTENSION, "CUDA_ARCHITECTURES", ""), reason="built without CUDA")
def test_a_launch_without_a_device_says_so():
    extension, zeros = compiled.EXTENSION, torch.zeros(1, 8)
    logits = extension.Logits(zeros.data_ptr(), extension.FLOAT32, 1, 8, 8, 8, 0)
    with pytest.raises(RuntimeError, match="CUDA kernel `stats` could not run: .*use tensors on the CPU, or a machine"):
        extension.stats_cuda(logits, zeros.data_ptr(), zeros.data_ptr(), 4, 1, extension.Queue(0, 0))
    assert not compiled.Cuda().is_available()


@pytest.fixture
def build(monkeypatch):
    """setup.py as a module."""
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    spec = importlib.util.spec_from_file_location("build_of_the_extension", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def old_nvcc(folder: Path) -> Path:
    """An nvcc of before CUDA 12.8: it lists what it knows, and does not compile for anything else."""
    script = folder / "nvcc"
    script.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "--list-gpu-code) printf 'sm_75\\nsm_80\\nsm_90\\nsm_90a\\n' ;;\n"
        "*100*) echo \"nvcc fatal : Unsupported gpu architecture 'compute_100'\" >&2; exit 1 ;;\n"
        f'*) exec {shutil.which("nvcc") or "false"} "$@" ;;\n'
        "esac\n"
    )
    script.chmod(0o755)
    return script


@pytest.mark.parametrize(
    ("wanted", "built", "left_out"),
    [
        ("80;90;100+PTX", "80;90+PTX", ["100"]),  # newer GPUs still get code that they can compile
        ("80+PTX;9.0;100", "80+PTX;90", ["100"]),
        ("80, 90a", "80;90a", []),
        ("80;100", "80", ["100"]),
        ("100;120+PTX", "", ["100", "120"]),
    ],
)
def test_an_old_nvcc_builds_for_what_it_knows(build, tmp_path, wanted, built, left_out):
    known, others = build.known_architectures(str(old_nvcc(tmp_path)), build.wanted_architectures(wanted))
    assert ";".join(map(str, known)) == built
    assert [arch.number for arch in others] == left_out


def test_an_nvcc_that_cannot_say_what_it_knows_is_asked_for_everything(build, tmp_path):
    (tmp_path / "nvcc").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "nvcc").chmod(0o755)
    wanted = build.wanted_architectures("80;100+PTX")
    for nvcc in (str(tmp_path / "nvcc"), str(tmp_path / "absent")):
        assert build.known_architectures(nvcc, wanted) == (wanted, [])
    assert wanted[1].flag() == "-gencode=arch=compute_100,code=[sm_100,compute_100]"


@pytest.mark.parametrize("archs", ["ninety", "80;x90", "90+SASS", ""])
def test_an_unusable_list_of_architectures_is_refused(build, archs):
    with pytest.raises(SystemExit, match="EDITCAPTION_CUDA_ARCHS: found .*, expected a list such as"):
        build.wanted_architectures(archs)


@pytest.mark.slow
@needs_nvcc
def test_a_build_with_an_old_nvcc_has_cuda_kernels_and_says_what_it_left_out(tmp_path):
    for folder in ("csrc", "editcaption_mega/kernels"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("_C*.so"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "editcaption_mega/__init__.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "bin").mkdir()
    path = f"{old_nvcc(tmp_path / 'bin').parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_HOME"} | {"PATH": path}
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "does not know sm_100: left out" in done.stdout and "cuda (80;90+PTX)" in done.stdout
    code = "from editcaption_mega.kernels import _C; print(_C.CUDA_ARCHITECTURES)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "80;90+PTX"


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++ isn't here")
@pytest.mark.parametrize("with_ninja", [True, False])
def test_only_what_changed_is_compiled_again_where_ninja_is(build, tmp_path, monkeypatch, with_ninja):
    if with_ninja and build.find_ninja() is None:
        pytest.skip("ninja isn't here")
    if not with_ninja:
        monkeypatch.setattr(build, "find_ninja", lambda: None)
    monkeypatch.chdir(tmp_path)
    Path("out folder").mkdir()
    steps = []
    for name in ("one", "two"):
        Path(f"{name}.h").write_text("constexpr int value = 1;\n")
        Path(f"{name}.cpp").write_text(f'#include "{name}.h"\nint {name}() {{ return value; }}\n')
        target = f"out folder/{name}.o"
        command = ["g++", '-DTEXT="$a;b"', "-MD", "-MF", f"{target}.d", "-c", f"{name}.cpp", "-o", target]
        steps.append(build.Step(f"{name}.cpp", target, command))

    def compiled() -> set[str]:
        before = {step.target: os.stat(step.target).st_mtime_ns for step in steps if os.path.exists(step.target)}
        build.run_steps("out folder", steps)
        return {step.source for step in steps if os.stat(step.target).st_mtime_ns != before.get(step.target)}

    assert compiled() == {"one.cpp", "two.cpp"}
    assert compiled() == (set() if with_ninja else {"one.cpp", "two.cpp"})
    Path("two.h").write_text("constexpr int value = 2;\n")
    assert compiled() == ({"two.cpp"} if with_ninja else {"one.cpp", "two.cpp"})
    Path("one.cpp").write_text("no C++")
    with pytest.raises(subprocess.CalledProcessError):
        build.run_steps("out folder", steps)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.cpp", "one.h", "out folder", "two.cpp", "two.h"]
