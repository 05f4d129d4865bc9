"""What can be shown of the CUDA variant without a GPU: it compiles without spills, links, loads, and fails clearly."""

import re
import shutil
import subprocess
import sys

import pytest
import torch

from editcaption_mega.kernels import compiled
from tests.helpers import ROOT

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc isn't here")


@needs_nvcc
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_no_kernel_spills_registers(arch, tmp_path):
    command = ["nvcc", "-std=c++17", "-O3", f"-arch=sm_{arch}", "-Xptxas", "-v", "-cubin", "-DECM_WITH_CUDA=1"]
    command += ["-Icsrc", "-o", str(tmp_path / "kernels.cubin"), "csrc/log_probs.cu"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stderr
    kernels = re.findall(r"Compiling entry function '\w*?(stats|backward|finalize)_kernel", told)
    assert {name: kernels.count(name) for name in set(kernels)} == {"stats": 6, "backward": 3, "finalize": 2}
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


def test_an_unusable_list_of_architectures_is_refused():
    code = "import sys; sys.argv = ['setup.py', '--version']; import setup; setup.gencode_flags('ninety')"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 1 and "EDITCAPTION_CUDA_ARCHS: found 'ninety', expected a list" in found.stderr
