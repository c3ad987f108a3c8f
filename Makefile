# SPDX-License-Identifier: Apache-2.0
# The index of commands. Every command that needs an interpreter sets one up first, once.
#
#   PYTHON   the Python (3.11 or newer) to set up from; default python3, python3.12 or python3.11
#   JOBS     processes that run tests; default 2
#   REPORT   arguments of the GPU report, such as REPORT="--commit HASH"
#   LATENCY  LATENCY=--write writes the baselines of make latency anew

PYTHON ?=
JOBS ?= 2
REPORT ?=
LATENCY ?=

# tools/setup.sh writes the path of the interpreter to use here.
STAMP := .setup/python
PY = $(shell cat $(STAMP))
PYTEST = $(PY) -m pytest
PARALLEL = -n $(JOBS) --dist loadgroup
GPU_TESTS = $(PYTEST) -m gpu --require-gpu --durations=10
CHAIN_TESTS = tests/gpu/test_chain_gpu.py

export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## find an interpreter that has everything, or make .venv
	@:

# Set up again where the interpreter is gone or another PYTHON is asked for.
ASKED := .setup/asked
GONE := $(if $(wildcard $(shell cat $(STAMP) 2>/dev/null)),,gone)
OTHER := $(filter-out $(shell cat $(ASKED) 2>/dev/null),$(PYTHON))
ifneq ($(GONE)$(OTHER),)
.PHONY: $(STAMP)
endif
$(STAMP): tools/setup.sh tools/missing.py pyproject.toml constraints.txt
	@mkdir -p $(@D)
	@tools/setup.sh $(PYTHON) > $@.tmp
	@mv $@.tmp $@
	@echo "$(PYTHON)" > $(ASKED)

# One thread: the products are small, and threads that wait by spinning starve on a busy machine.
.PHONY: demo
demo: export OMP_NUM_THREADS := 1
demo: setup ## decode real text speculatively and say what it cost
	$(PY) -m graphrt demo

# Interpreted kernels need TRITON_INTERPRET before Triton is imported, compiled ones need it unset:
# two runs of pytest, tests/conftest.py chooses the tests of each. Every part runs, any can fail it.
.PHONY: test
test: export OMP_NUM_THREADS := 1
test: setup ## lint, then the tests, then those of tests/interpreter
	@status=0; \
	if $(PY) -c "import ruff, mypy" 2>/dev/null; then $(MAKE) --no-print-directory lint || status=1; \
	else echo "lint left out: ruff and mypy are not installed for $(PY)"; fi; \
	env -u TRITON_INTERPRET $(PYTEST) $(PARALLEL) || status=1; \
	TRITON_INTERPRET=1 $(PYTEST) $(PARALLEL) || status=1; \
	exit $$status

# The chain's tests compile most of the time and can share the GPU; the others measure it. Every
# part runs, any can fail it.
.PHONY: gpu
gpu: setup ## the tests that need a GPU, then the report under benchmarks/
	@status=0; unset TRITON_INTERPRET; \
	$(GPU_TESTS) -n $(JOBS) --dist load $(CHAIN_TESTS) || status=1; \
	$(GPU_TESTS) --ignore $(CHAIN_TESTS) || status=1; \
	$(PY) -m tools.gpu_report $(REPORT) || status=1; \
	exit $$status

# Without a GPU only what is predicted is compared.
.PHONY: latency
latency: setup ## compare latency with this GPU's baseline, and what is predicted, benchmarks/latency-*
	env -u TRITON_INTERPRET $(PY) -m tools.latency_baseline $(LATENCY)

# No GPU is needed. PYTHONPATH=FOLDER make facts, where FOLDER holds another Triton, writes its file.
.PHONY: facts
facts: export OMP_NUM_THREADS := 1
facts: setup ## write anew what the kernels compile to, tests/golden/static_facts-triton-*.json
	env -u TRITON_INTERPRET $(PY) -m tools.static_facts

.PHONY: lint
lint: setup ## ruff and strict mypy
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

.PHONY: format
format: setup ## rewrite the code as ruff wants it
	$(PY) -m ruff check --fix
	$(PY) -m ruff format

.PHONY: clean
clean: ## remove .venv, caches and builds
	rm -rf .setup .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
