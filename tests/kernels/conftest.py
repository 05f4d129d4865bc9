"""The `backend` of each test: those that this machine has, and the CUDA kernels' source executed on the CPU."""

import hashlib
import importlib.util
import inspect
import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from editcaption_mega.kernels import available_backends, backends, compiled, elementwise, expert_rows
from editcaption_mega.kernels.compiled_elementwise import CudaElementwise
from editcaption_mega.kernels.compiled_experts import CudaExperts
from tests.helpers import ROOT

HERE = Path(__file__).parent
CSRC = ROOT / "csrc"
NATIVE = [name for name in available_backends() if name != "cuda"]
EMULATED = "cuda, emulated"


def build_emulated(folder: Path, flags: tuple[str, ...] = ()) -> Path:
    """Compile csrc with the CUDA variant for the CPU (see cuda_on_cpu/cuda_runtime.h) -> the module's path."""
    import pybind11

    includes = [str(HERE / "cuda_on_cpu"), str(CSRC), pybind11.get_include(), sysconfig.get_path("include")]
    common = ["g++", "-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-w", *flags]
    common += ["-DECM_WITH_CUDA=1", '-DECM_CUDA_ARCHITECTURES="emulated"', "-DECM_ISA=baseline"]
    common += [f"-I{folder}" for folder in includes]
    sources = [source.name for kind in ("*.cpp", "*.cu") for source in sorted(CSRC.glob(kind))]

    def compile_one(source: str) -> str:
        target = str(folder / f"{source}.o")
        subprocess.run([*common, "-x", "c++", "-c", str(CSRC / source), "-o", target], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, sources))
    module = folder / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(["g++", "-shared", "-pthread", *flags, *objects, "-o", str(module)], check=True)
    return module


def built_emulation(work: Path) -> Path:
    """The module's path in build/, compiled (in `work`) only where a source, a flag or the compiler is another."""
    digest = hashlib.sha256(inspect.getsource(build_emulated).encode())
    digest.update(subprocess.run(["g++", "--version"], capture_output=True, check=True).stdout)
    for path in sorted(path for folder in (CSRC, HERE / "cuda_on_cpu") for path in folder.rglob("*") if path.is_file()):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    module = ROOT / "build/emulated" / f"{digest.hexdigest()[:16]}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not module.exists():
        built = build_emulated(work)
        shutil.rmtree(module.parent, ignore_errors=True)
        module.parent.mkdir(parents=True)
        part = shutil.copy(built, module.with_suffix(f".{os.getpid()}"))
        os.replace(part, module)
    return module


@pytest.fixture(scope="session")
def emulated_extension(tmp_path_factory):
    if compiled.EXTENSION is None:
        pytest.skip("no C++ compiler here")
    spec = importlib.util.spec_from_file_location("emulated._C", built_emulation(tmp_path_factory.mktemp("emulated")))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class EmulatedCuda(compiled.Cuda):
    """The `cuda` backend on tensors of the CPU."""

    def is_available(self) -> bool:
        return True


def launch_emulated(kernel: str, device: torch.device, *arguments) -> None:
    getattr(compiled.EXTENSION, kernel + "_cuda")(*arguments, compiled.EXTENSION.Queue(0, 0))


@pytest.fixture(params=[*NATIVE, EMULATED])
def backend(request, monkeypatch):
    """A backend's name for tensors on the CPU."""
    if request.param != EMULATED:
        return request.param
    monkeypatch.setattr(compiled, "EXTENSION", request.getfixturevalue("emulated_extension"))
    monkeypatch.setattr(compiled, "launch", launch_emulated)
    monkeypatch.setitem(backends.BACKENDS, "cpu", EmulatedCuda())
    monkeypatch.setitem(expert_rows.BACKENDS, "cpu", CudaExperts())
    monkeypatch.setitem(elementwise.BACKENDS, "cpu", CudaElementwise())
    return "cpu"


# Of the emulated kernels of layers, what `make test` runs: each of them once.
EMULATED_ALWAYS = (
    "test_expert_order_sorts_by_expert_and_then_by_token",
    "test_probabilities_find_their_rows_and_gradients_their_choices",
    "test_swiglu_far_from_zero",
    "test_a_rotation_that_is_taken_back_is_none",
    "test_the_weights_gradient_is_the_same_bits_in_every_run",
)


def pytest_collection_modifyitems(items):
    """Emulation is slow: `make test` runs it on the kernels' contract, `make test-slow` on everything."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is None or callspec.params.get("backend") != EMULATED:
            continue
        if item.path.name != "test_statistics.py" and item.originalname not in EMULATED_ALWAYS:
            item.add_marker(pytest.mark.slow)
