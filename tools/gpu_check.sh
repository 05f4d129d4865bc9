#!/usr/bin/env bash
# `make gpu-check`: builds the extension for this machine's GPU and measures; needs PyTorch >= 2.11 and no network.
# Without .venv it is the python3 of the machine, with the packages that it lacks from wheels/ (`make gpu-wheels` fetches
# them where there is a network). Arguments go to tools/gpu_check.py.
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
if ! "$python" -c 'import torch' 2>/dev/null; then
  echo "error: $python has no PyTorch: run 'make setup' first, or use a machine whose python3 has it" >&2
  exit 2
fi
if [ "$python" = python3 ]; then
  site=build/gpu-check-packages
  if compgen -G 'wheels/*.whl' >/dev/null && [ ! -d "$site" ]; then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" wheels/*.whl
  fi
  export PYTHONPATH="$PWD/$site:$PWD${PYTHONPATH:+:$PYTHONPATH}"
fi
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ' || true)
if [ -n "$capability" ] && ! PATH="${CUDA_HOME:+$CUDA_HOME/bin:}$PATH" command -v nvcc >/dev/null; then
  echo "warning: there is a GPU and no nvcc, so the extension stays as it is, and parts that need its CUDA variant fail:" \
    "put CUDA's bin folder on the PATH, or set CUDA_HOME" >&2
elif [ -n "$capability" ]; then
  export EDITCAPTION_CUDA_ARCHS="$capability"
  mkdir -p build
  if ! "$python" setup.py --quiet build_ext --inplace >build/gpu-check-build.txt 2>&1; then
    # An older setuptools cannot read pyproject.toml, which the build does not need.
    copy=$(mktemp -d)
    cp -r setup.py csrc editcaption_mega "$copy"
    (cd "$copy" && "$python" setup.py --quiet build_ext --inplace) >>build/gpu-check-build.txt 2>&1 || {
      tail -20 build/gpu-check-build.txt >&2
      echo "error: the extension could not be built: build/gpu-check-build.txt has all of it" >&2
      exit 1
    }
    cp "$copy"/editcaption_mega/kernels/_C*.so editcaption_mega/kernels/
    rm -r "$copy"
  fi
fi
export PYTHONUNBUFFERED=1
exec "$python" tools/gpu_check.py "$@"
