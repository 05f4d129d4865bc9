# make setup | try | demo | curation-demo | check | test | test-slow | unit | lint | types | bench | parity | sanitize | chaos | fuzz | hostile
# | plan-check | configurations | settings | api     (each runs setup first when something changed)
# make gpu-check | gpu-wheels             (on a machine with a GPU and no network, and what to carry there)
# make transformer-engine                 (what model.backend=transformer_engine needs, compiled with nvcc for the torch of .venv)
#
# PIP_ARGS adds to pip's arguments; EDITCAPTION_CUDA_ARCHS chooses the CUDA architectures to build for.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
SOURCES := pyproject.toml constraints.txt setup.py $(wildcard csrc/*)
TRY_ARGS ?=
DEMO_ARGS ?=
CURATION_DEMO_ARGS ?=
BENCH_ARGS ?= kernels
CHAOS_ARGS ?=
GPU_CHECK_ARGS ?=
FUZZ_ARGS ?=
PYTEST_ARGS ?=
TEST_WORKERS ?= 2
# What `make check` runs; the one place that says so.
UNIT_TESTS := $(addprefix tests/,records settings evaluation/rubric evaluation/stats \
  evaluation/judge/test_reply.py evaluation/judge/test_reply_scores.py evaluation/judge/test_golden_replies.py \
  evaluation/human/test_agreement.py data/batching/test_order.py data/text/test_quoting.py data/text/test_refusals.py \
  data/images/test_file_kinds.py inference/endpoint/test_answer.py inference/endpoint/test_failures.py \
  inference/endpoint/test_openai_protocol.py inference/endpoint/test_secret.py \
  test_files.py test_words.py test_import_order.py test_automation.py)
# Small models gain nothing from many threads, and tests start several processes.
export OMP_NUM_THREADS ?= 2
# Threads that wait let others work: on busy cores texts are written three to eight times as fast as with spinning ones, on
# idle cores in 1.3 times the time.
export OMP_WAIT_POLICY ?= passive

.PHONY: configurations settings setup try demo curation-demo check test test-slow unit lint types bench parity sanitize chaos fuzz hostile plan-check api gpu-check gpu-wheels transformer-engine
.DELETE_ON_ERROR:

setup: $(STAMP)

$(BIN)/python:
	@set -e; found=; \
	for python in python3.12 python3 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 12))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "Python 3.12 is needed and none of python3.12, python3, python is that; install it (with pyenv: pyenv install 3.12)" >&2; \
	  exit 1; \
	fi; \
	echo "making $(VENV) with $$found"; "$$found" -m venv $(VENV)

$(STAMP): $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools pybind11 ninja $(PIP_ARGS)
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[test]' $(PIP_ARGS)
	@$(BIN)/python -c 'from editcaption_mega.kernels import available_backends as a; print("log-prob backends here:", *a())'
	@touch $@

# A tiny random model learns ten pairs and captions them, in a minute.
try: setup
	$(BIN)/editcaption try $(TRY_ARGS)

demo: setup
	$(BIN)/python tools/demo.py $(DEMO_ARGS)

# From raw pairs to SFT and preference sets, with a server, scores, filters and simulated annotators.
curation-demo: setup
	$(BIN)/python tools/curation_demo.py $(CURATION_DEMO_ARGS)

# Before each commit, under a minute: style, types, and the tests that need no process, no server and no training.
check: lint types unit

unit: setup
	$(BIN)/python -m pytest -q -m "not slow" $(UNIT_TESTS) $(PYTEST_ARGS)

# A file of tests stays in one process, so what its tests share is made once; files begin in tests/conftest.py's order,
# the longest first. Compiled files are kept whatever the shell says: every worker and rank would compile them again.
test: setup
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" \
	  -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-slow: setup
	$(BIN)/python -m pytest -m slow --timeout 14400 $(PYTEST_ARGS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# The tables of shipped configurations, planned at their own sizes and on other numbers of GPUs.
configurations: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.planning.configurations --write docs/configurations.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.planning.gpu_counts --write docs/gpu_counts.md

bench: setup
	$(BIN)/python tools/bench.py $(BENCH_ARGS)

parity: setup
	$(BIN)/python -m tests.parity --write docs/parity.md

sanitize: setup
	$(BIN)/python -m pytest -m slow tests/kernels/test_sanitizers.py $(PYTEST_ARGS)

chaos: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(CHAOS_ARGS)

fuzz: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(FUZZ_ARGS)

hostile: setup
	$(BIN)/python -m pytest -m slow -q tests/inference/endpoint/test_hostile_endpoint.py $(PYTEST_ARGS)

# A step of every rank role of each shipped configuration: where the host waits, and memory against what it was.
plan-check: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or not slow" tests/planning/test_step_checks.py $(PYTEST_ARGS)

# The page of all settings, from the comments beside them.
settings: setup
	$(BIN)/python -m editcaption_mega.settings.settings_page --write docs/settings.md

# A reference from the docstrings, in build/api.
api: setup
	$(BIN)/python -m pip install --quiet -c constraints.txt pdoc $(PIP_ARGS)
	$(BIN)/python -m pdoc --output-directory build/api editcaption_mega

# Whether one GPU computes what it should, and how fast. It does no set-up: see tools/gpu_check.sh.
gpu-check:
	bash tools/gpu_check.sh $(GPU_CHECK_ARGS)

# It does no set-up either: see tools/transformer_engine.sh.
transformer-engine:
	bash tools/transformer_engine.sh $(BIN)/python $(PIP_ARGS)

# What a machine with PyTorch, transformers and pydantic's like lacks, as wheels to carry there.
GPU_WHEELS := megatron-core omegaconf pydantic pydantic-core annotated-types typing-inspection rich webdataset braceexpand
# And a peer of the log-prob kernels, which nothing but the check wants.
GPU_PEERS := liger-kernel==0.8.5
GPU_PLATFORMS := 2_28 2_27 2_17
gpu-wheels: setup
	$(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
	  $(foreach version,$(GPU_PLATFORMS),--platform manylinux_$(version)_x86_64) --platform manylinux2014_x86_64 \
	  --dest wheels -c constraints.txt $(GPU_WHEELS) $(GPU_PEERS) $(PIP_ARGS)
	@du -sh wheels
