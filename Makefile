# make serve   install, start Triton and the control plane with the demo model, answer a prompt
# make test    install what tests need, and run them all
# make test-fast  run the control plane's tests that start no process, and measure what they cover
# make test-gpu  run the tests that need a GPU, with PYTHON alone: it has PyTorch, transformers and
#              pytest, and needs neither Triton nor a network
# make bench   measure the gateway and the engines, each beside what users have otherwise
# make fuzz    send a real server odd and hostile requests: structured output for MINUTES (10), then
#              whatever the OpenAPI document allows
# make docs    write the generated pages of the manual, and its site into build/site
# make constraints  write the pinned versions and their hashes; the newest with UPGRADE=--upgrade
#
# PYTHON       the Python to make the virtual environment with (3.11 to 3.13)
# TORCH        the PyTorch to install where there is none
# TORCH_INDEX  the package index to take PyTorch from, and nothing else, such as that of its CPU
#              builds: on a machine without a GPU it saves several GB
# CONSTRAINTS  the file with the versions of all other packages, and their hashes; nothing: the newest
#              that fit, unverified
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
UPGRADE ?=
# Percent of the control plane's statements that test-fast has to run.
MIN_COVERAGE := 90

BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
# With hashes in its constraints, pip installs nothing without a matching hash.
PIP := $(BIN)/python $(PIP_INSTALL) $(if $(CONSTRAINTS),-c $(CONSTRAINTS))
# Hashes are verified where there are any: for PyTorch, whose builds differ, and for tools.
PIP_SOME_HASHES := $(PIP) --no-require-hashes
VLLM_PIP := $(VLLM_VENV)/bin/python $(PIP_INSTALL) --no-require-hashes
# Extras with all that they need, and then the project itself, a folder, which can have no hash.
install = $(BIN)/python docs/tools/extras.py $(1) >$(VENV)/requirements.txt && $(PIP) -r $(VENV)/requirements.txt && \
	PYTHONWARNINGS=ignore $(BIN)/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
# pip itself: before release 26.1 it does not verify hashes in constraints.
upgrade_pip = awk '/^pip==/ {found = 1} found {print} found && !/\\$$/ {exit}' \
	$(or $(CONSTRAINTS),/dev/null) >$(1)/pip.txt && { [ -s $(1)/pip.txt ] || echo 'pip>=26.1' >$(1)/pip.txt; } && \
	$(1)/bin/python $(PIP_INSTALL) --upgrade -r $(1)/pip.txt
# Of two indexes pip takes what has the higher version, whoever has put it there: so from this one
# PyTorch alone, without what it needs.
FROM_TORCH_INDEX := --no-deps --index-url $(TORCH_INDEX) $(TORCH)
SERVE_READY := $(VENV)/.ready-to-serve
TEST_READY := $(VENV)/.ready-to-test
BENCH_READY := $(VENV)/.ready-to-bench
DOCS_READY := $(VENV)/.ready-for-docs
LOCK_READY := $(VENV)/.ready-to-lock
FUZZ_READY := $(VENV)/.ready-to-fuzz
VLLM_READY := $(VLLM_VENV)/.ready

.PHONY: serve test test-fast test-gpu check bench fuzz docs constraints clean

ifeq ($(BACKEND),vllm)
serve: $(VLLM_READY)
serve: export TRIAD_SERVING__VLLM__PYTHON_ENVIRONMENT ?= $(VLLM_VENV)
endif
serve: $(SERVE_READY)
	@exec $(BIN)/triad serve --demo $(if $(BACKEND),--backend $(BACKEND)) $(ARGS)

# Tests start some 200 Python processes: compiled once, our modules load in 1.2 s instead of 1.5 s,
# also where the variable is set.
test test-fast: export PYTHONDONTWRITEBYTECODE =

# On a machine that others use as well, a bound on a time may be missed: what fails is tried once
# more, and reported.
test: check $(VLLM_READY)
	@TRIAD_TEST_VLLM=$(VLLM_VENV) $(BIN)/python -m pytest -n 2 -rR --reruns 1 --rerun-show-tracebacks

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

docs: $(DOCS_READY)
	@$(BIN)/python -m docs.tools.reference
	@$(BIN)/zensical build --strict
	@rm -rf build/site/tools

constraints: $(LOCK_READY)
	@$(BIN)/python -m docs.tools.constraints $(UPGRADE)

clean:
	rm -rf $(VENV) $(VLLM_VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed, and $(PYTHON) is not installed."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "Python 3.11 to 3.13 is needed, not $$($(PYTHON) --version): name one with PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing: install it (Debian, Ubuntu: apt-get install python3-venv)."; exit 1; }
	@echo "making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(SERVE_READY): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "installing Triad, Triton and PyTorch (a few minutes the first time)"
	@$(call upgrade_pip,$(VENV))
	@$(if $(TORCH_INDEX),$(PIP_SOME_HASHES) $(FROM_TORCH_INDEX))
	@$(PIP_SOME_HASHES) $(TORCH)
	@$(call install,embedded pytorch onnx)
	@touch $@

$(VLLM_READY): backends/vllm/requirements-cpu.txt | $(BIN)/python
	@echo "installing vLLM (a few minutes the first time)"
	@$(PYTHON) -m venv $(VLLM_VENV)
	@$(call upgrade_pip,$(VLLM_VENV))
	@$(if $(TORCH_INDEX),$(VLLM_PIP) $(FROM_TORCH_INDEX))
	@$(VLLM_PIP) --no-deps -r $<
	@PYTHONWARNINGS=ignore $(VLLM_PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(TEST_READY): $(SERVE_READY)
	@echo "installing what the tests need"
	@$(call install,embedded pytorch onnx convert dev)
	@touch $@

$(DOCS_READY): pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@echo "installing what the manual needs"
	@$(call upgrade_pip,$(VENV))
	@$(call install,docs)
	@touch $@

$(LOCK_READY): pyproject.toml | $(BIN)/python
	@echo "installing what resolves versions"
	@$(call upgrade_pip,$(VENV))
	@$(PIP_SOME_HASHES) packaging 'uv>=0.13'
	@touch $@

$(FUZZ_READY): $(TEST_READY)
	@echo "installing what makes requests"
	@$(PIP_SOME_HASHES) --editable '.[embedded,pytorch,onnx,convert,dev,fuzz]'
	@touch $@

$(BENCH_READY): $(TEST_READY)
	@echo "installing what is measured against"
	@$(PIP_SOME_HASHES) --editable '.[embedded,pytorch,onnx,convert,dev,bench]'
	@touch $@
