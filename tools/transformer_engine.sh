#!/usr/bin/env bash
# `make transformer-engine`: installs what `model.backend=transformer_engine` needs, and says which version imports.
# Its PyTorch part is compiled against the PyTorch that is there, which stays: minutes on many cores. Where the version
# of pyproject.toml imports already, nothing is done. The first argument is the Python, the others go to pip.
# MAX_JOBS is how many files are compiled at a time; NVTE_PYTORCH_FORCE_BUILD=FALSE takes NVIDIA's own build where there
# is one for this PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
pip_arguments=("${@:2}")

fail() {
  echo "error: $1" >&2
  exit "${2:-2}"
}

reason=$("$python" -c 'import torch' 2>&1) ||
  fail "$python has no PyTorch that can be imported (${reason##*$'\n'}): run 'make setup' first"
requirement=$("$python" -c '
import pathlib, tomllib
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
print(*project["optional-dependencies"]["transformer_engine"])')

# The version that imports, where it is the wanted one. PyTorch comes first: it loads the libraries of CUDA.
imported() {
  "$python" - "$requirement" <<'END'
import sys, torch, transformer_engine.pytorch
from importlib.metadata import version
from packaging.requirements import Requirement
present = version("transformer-engine")
if present not in Requirement(sys.argv[1]).specifier:
    raise SystemExit(f"Transformer Engine {present} is not {sys.argv[1]}")
print(f"Transformer Engine {present} imports with PyTorch {torch.__version__}")
END
}

if imported 2>/dev/null; then exit 0; fi

if [ -n "${CUDA_HOME:-}" ]; then # which the build looks at, whatever is on the PATH
  nvcc=$CUDA_HOME/bin/nvcc
  [ -x "$nvcc" ] ||
    fail "CUDA_HOME=$CUDA_HOME has no bin/nvcc: set it to the folder of a CUDA toolkit, or unset it and put the toolkit's bin folder on the PATH"
else
  nvcc=$(command -v nvcc) ||
    fail "there is no nvcc, whose CUDA toolkit Transformer Engine is compiled with: put CUDA's bin folder on the PATH, or set CUDA_HOME"
fi
release=$("$nvcc" --version 2>&1) ||
  fail "$nvcc does not run (${release##*$'\n'}): put the bin folder of a CUDA toolkit on the PATH, or set CUDA_HOME"
toolkit=$(sed -n 's/.*release \([0-9]*\)\..*/\1/p' <<<"$release")
cuda=$("$python" -c 'import torch; print((torch.version.cuda or "none").partition(".")[0])')
[ "$cuda" != none ] || fail "the PyTorch of $python was built without CUDA, which Transformer Engine needs: install one with CUDA"
[ "$toolkit" = "$cuda" ] ||
  fail "$nvcc is of CUDA ${toolkit:-unknown} and the PyTorch of $python of CUDA $cuda: put the bin folder of a CUDA $cuda toolkit on the PATH, or set CUDA_HOME"

# Headers that a toolkit lacks (cuDNN, NCCL) are in the packages that PyTorch brought.
headers=$("$python" -c '
import glob, importlib.util
spec = importlib.util.find_spec("nvidia")
folders = spec.submodule_search_locations if spec else []
print(*(path for folder in folders for path in sorted(glob.glob(f"{folder}/*/include"))), sep=":")')
if [ -n "$headers" ]; then export CPATH="${CPATH:+$CPATH:}$headers"; fi
# An nvcc on the PATH may be a link or a wrapper: it says itself where it is from.
if [ -z "${CUDA_HOME:-}" ]; then
  CUDA_HOME=$("$nvcc" -dryrun -x cu -c /dev/null 2>&1 | sed -n 's/^#\$ TOP=//p') && [ -d "$CUDA_HOME" ] ||
    fail "$nvcc does not say which folder its toolkit is in: set CUDA_HOME to it"
  CUDA_HOME=$(cd "$CUDA_HOME" && pwd)
  export CUDA_HOME
fi
export NVTE_PYTORCH_FORCE_BUILD=${NVTE_PYTORCH_FORCE_BUILD:-TRUE}
# A compiler takes two gigabytes.
gigabytes=$(awk '/MemAvailable/ {print int($2 / 2^20)}' /proc/meminfo)
jobs=$((gigabytes / 2 > 1 ? gigabytes / 2 : 1))
cores=$(nproc)
export MAX_JOBS=${MAX_JOBS:-$((jobs < cores ? jobs : cores))}

pip() { "$python" -m pip "$@" --quiet --constraint constraints.txt "${pip_arguments[@]}"; }

# What pip keeps of an earlier build does not say for which PyTorch it was.
echo "compiling Transformer Engine for the PyTorch of $python, $MAX_JOBS files at a time: it takes minutes"
wheels=build/transformer-engine
rm -rf "$wheels"
pip install wheel setuptools pybind11 ninja packaging ||
  fail "what compiles Transformer Engine (wheel, setuptools, pybind11, ninja, packaging) was not installed: the lines above say why" 1
pip wheel --no-deps --no-build-isolation --no-cache-dir --wheel-dir "$wheels" "${requirement/\[pytorch\]/-torch}" ||
  fail "Transformer Engine was not compiled: the lines above say why" 1
# Nothing is changed before it is there, since Megatron-Core imports what is installed of it.
"$python" -m pip uninstall --quiet --yes transformer-engine-torch 2>/dev/null || true
pip install --no-build-isolation "$wheels"/*.whl "$requirement" ||
  fail "Transformer Engine was not installed: the lines above say why" 1
imported || fail "Transformer Engine was compiled and cannot be imported: the lines above say why" 1
