"""The CUDA kernels under compute-sanitizer: no access outside memory (memcheck), no race in shared memory
(racecheck)."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .figures import Figure, Figures, Machine

TOOLS = ("memcheck", "racecheck")
SECONDS = 80  # for one tool: it slows kernels down tenfold and more


def run(machine: Machine) -> Figures:
    program = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    command = [sys.executable, "-P", "-m", f"{__package__}.small_kernels", machine.device.type]
    folders = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])}
    if not (machine.on_gpu and program):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        why = "no compute-sanitizer here" if machine.on_gpu else "no GPU here"
        yield Figure("the kernels' program, not checked", float(done.returncode), "", why, most=0)
        return
    for tool in TOOLS:
        checked = [program, "--tool", tool, "--error-exitcode", "9", *command]
        done = subprocess.run(checked, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False)
        (machine.output / f"{tool}.txt").write_text(done.stdout + done.stderr)
        last = [line for line in done.stdout.splitlines() if "SUMMARY" in line][-1:] or done.stderr.splitlines()[-1:]
        yield Figure(f"{tool}: exit code", float(done.returncode), "", " ".join(last).strip("= "), most=0)
