# Two commands: `make demo` shows what this does, `make test` runs everything that CI runs.
# `make test-device` runs the tests of GPUs on a simulated one, in a process of their own.
# `make tables` brings the tables of results in README and docs up to date with leaderboards/*.csv.
PYTHON ?= python3
BIN := .venv/bin
ON_DEVICE := $(BIN)/python -m pytest -p tests.simulated_cuda.plugin tests/simulated_cuda tests/device
JOBS ?= 2

.PHONY: demo docs test test-all test-device lint tables install clean

install: .venv/installed

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@ .venv/demo-installed

# What the demo needs, and no more: no Ray, Lightning, ONNX, browser or type checker.
.venv/demo-installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	touch $@

demo: .venv/demo-installed
	$(BIN)/python -m tasks.cartpole --method dense --epochs 12 --runs runs/demo
	$(BIN)/python -m tasks.cartpole --method earlycrop-s --sparsity 0.9 --epochs 12 --runs runs/demo
	$(BIN)/python -m tasks.digits --method dense --epochs 12 --runs runs/demo
	$(BIN)/python -m tasks.digits --method earlycrop-s --sparsity 0.95 --epochs 12 --runs runs/demo
	$(BIN)/python -m leaderboards --runs runs/demo

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow"

test-device: install
	$(ON_DEVICE) -m "not slow"

test-all: lint
	$(BIN)/python -m pytest -n $(JOBS)
	$(ON_DEVICE)

tables: install
	$(BIN)/python -m leaderboards tables

docs: install
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build
	@echo "open docs/_build/index.html"

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
