# make serve   install, start Triton and the control plane with the demo model, answer a prompt
# make test    install what tests need, and run them all
# make test-fast  run the control plane's tests that start no process, and measure what they cover
# make test-gpu  run the tests that need a GPU, with PYTHON alone: it has PyTorch, transformers and
#              pytest, and needs neither Triton nor a network
# make bench   measure the gateway and the engines, each beside what users have otherwise
# make fuzz    send a real server odd and hostile requests: structured output for MINUTES (10), then
#              whatever the OpenAPI document allows
#
# PYTHON       the Python to make the virtual environment with (3.11 to 3.13)
# TORCH        the PyTorch to install where there is none
# TORCH_INDEX  the package index to take PyTorch from, and nothing else, such as that of its CPU
#              builds: on a machine without a GPU it saves several GB
# CONSTRAINTS  the file with the versions of all other packages; nothing: the newest that fit
# BACKEND      the engine that serve starts, pytorch, onnx or vllm, whatever its settings say; vllm
#              gets a virtual environment of its own with the CPU build of vLLM (2.5 GB)
# ARGS         further arguments of `triad serve`, such as ARGS="--model my-folder --port 9000"

PYTHON ?= python3
VENV ?= .venv
VLLM_VENV ?= .venv-vllm
TORCH ?= torch==2.13.0
TORCH_INDEX ?=
CONSTRAINTS ?= constraints.txt
BACKEND ?=
ARGS ?=
MINUTES ?= 10
# Percent of the control plane's statements that test-fast has to run.
MIN_COVERAGE := 68

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check
# Of two indexes pip takes what has the higher version, whoever has put it there: so from this one
# PyTorch alone, without what it needs.
FROM_TORCH_INDEX := --no-deps --index-url $(TORCH_INDEX) $(TORCH)
SERVE_READY := $(VENV)/.ready-to-serve
TEST_READY := $(VENV)/.ready-to-test
BENCH_READY := $(VENV)/.ready-to-bench
FUZZ_READY := $(VENV)/.ready-to-fuzz
VLLM_READY := $(VLLM_VENV)/.ready

.PHONY: serve test test-fast test-gpu check bench fuzz clean

ifeq ($(BACKEND),vllm)
serve: $(VLLM_READY)
serve: export TRIAD_SERVING__VLLM__PYTHON_ENVIRONMENT ?= $(VLLM_VENV)
endif
serve: $(SERVE_READY)
	@exec $(BIN)/triad serve --demo $(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

# Tests start some 200 Python processes: compiled once, our modules load in 1.2 s instead of 1.5 s,
# also where the variable is set.
test test-fast: export PYTHONDONTWRITEBYTECODE =

test: check $(VLLM_READY)
	@TRIAD_TEST_VLLM=$(VLLM_VENV) $(BIN)/python -m pytest -n 2

test-fast: $(TEST_READY)
	@$(BIN)/python -m pytest -n 2 -m fast tests/control_plane --cov --cov-fail-under=$(MIN_COVERAGE)

check: $(TEST_READY)
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy

test-gpu:
	@$(PYTHON) -m pytest -c tests/gpu/pytest.ini tests/gpu

bench: $(BENCH_READY) $(VLLM_READY)
	@$(BIN)/python -m tests.benchmarks.gateway $(ARGS)
	@$(BIN)/python -m tests.benchmarks.pytorch $(ARGS)
	@$(BIN)/python -m tests.benchmarks.onnx $(ARGS)
	@TRIAD_TEST_VLLM=$(VLLM_VENV) $(BIN)/python -m tests.benchmarks.vllm $(ARGS)
	@$(BIN)/python -m tests.benchmarks.openai_route $(filter --quick,$(ARGS))

fuzz: $(FUZZ_READY)
	@$(BIN)/python -m tests.fuzz.structured_output --minutes $(MINUTES) $(ARGS)
	@$(BIN)/python -m tests.fuzz.http

clean:
	rm -rf $(VENV) $(VLLM_VENV) *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, and $(PYTHON) is not installed."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Python 3.11 to 3.13 is needed, not $$($(PYTHON) --version): name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: install it (Debian, Ubuntu: apt-get install python3-venv)."; exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(SERVE_READY): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "installing Triad, Triton and PyTorch (a few minutes the first time)"
	@$(PIP) $(if $(TORCH_INDEX),$(FROM_TORCH_INDEX),$(TORCH))
	@$(PIP) --editable '.[embedded,pytorch,onnx]'
	@touch $@

$(VLLM_READY): backends/vllm/requirements-cpu.txt | $(BIN)/python
	@echo "installing vLLM (a few minutes the first time)"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(if $(TORCH_INDEX),$(VLLM_PIP) $(FROM_TORCH_INDEX))
	@$(VLLM_PIP) --no-deps -r $<
	@$(VLLM_PIP) --no-deps --editable .
	@touch $@

$(TEST_READY): $(SERVE_READY)
	@echo "installing what the tests need"
	@$(PIP) --editable '.[embedded,pytorch,onnx,convert,dev]'
	@touch $@

$(FUZZ_READY): $(TEST_READY)
	@echo "installing what makes requests"
	@$(PIP) --editable '.[embedded,pytorch,onnx,convert,dev,fuzz]'
	@touch $@

$(BENCH_READY): $(TEST_READY)
	@echo "installing what is measured against"
	@$(PIP) --editable '.[embedded,pytorch,onnx,convert,dev,bench]'
	@touch $@
