# `make help` lists the targets. Everything runs in .venv, which `make setup` creates and reuses.
PYTHON ?= python3
BIN := .venv/bin
SLOW ?=
MARK := $(if $(SLOW),-m "slow or not slow")
export FEWSHOT_DATA ?= $(abspath $(wildcard ../shared/data))
ifeq ($(FEWSHOT_DATA),)
unexport FEWSHOT_DATA
endif

.DEFAULT_GOAL := help
.PHONY: help setup run test check results bench build clean

help:  ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: .venv/installed  ## create .venv and install everything into it

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $@

run: setup  ## set up and train MAML on the embedded data
	$(BIN)/fewshot train algorithm=maml

test: setup  ## the tests; SLOW=1 for all of them
	$(BIN)/python -m pytest -n auto --dist worksteal $(MARK)

check: setup  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

results: setup  ## the tables of results in README and docs, from docs/results
	$(BIN)/python scripts/results.py

bench: setup  ## benchmarks beside other libraries: docs/results/bench_*.json and the tables of docs/speed.md
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[bench]'
	$(BIN)/python scripts/bench --json docs/results
	$(BIN)/python scripts/bench/page.py

build: setup  ## sdist and wheel in dist/
	$(BIN)/python -m build --no-isolation

clean:  ## remove what can be made again (.venv and outputs stay)
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache
	find src tests -name __pycache__ -type d -exec rm -rf {} +
