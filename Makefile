# Everything runs from .venv, which the first target makes from the locked set.
SHELL := /bin/bash
BIN := .venv/bin
PYTHON_ANY := $(or $(PYTHON),$(shell command -v python3 || command -v python))
BOOTSTRAP := $(PYTHON_ANY) scripts/bootstrap.py

# One process per core; tests/support/xdist_groups.py says which tests stay together.
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder --durations=25

# Without byte code every process compiles vLLM's source anew, which is most of its import.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help python install install-dev install-sae demo test-unit test test-full test-oracles lint docs compat bench mutants clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

python:
	@test -n "$(PYTHON_ANY)" || { echo "pilothouse set-up: no Python was found: install Python 3.11" >&2; exit 2; }

install: python  ## make .venv with what serving needs
	@$(BOOTSTRAP)

install-dev: python
	@$(BOOTSTRAP) --with dev

install-sae: python  ## the same with sae-lens, which trains SAEs
	@$(BOOTSTRAP) --with sae

demo: install  ## serve a small real model on 127.0.0.1:8000 (ARGS="--port 8001", ARGS=--tour, ARGS=--world)
	@$(BIN)/pilothouse demo $(ARGS)

test-unit: install-dev  ## the tests that need no torch and no vLLM, a quicker part of `make test`
	@$(PYTEST) --unit $(ARGS)

test: install-dev  ## the quick suite (ARGS="-k house")
	@$(PYTEST) -m "not full" $(ARGS)

test-full: install-dev  ## every test
	@$(PYTEST) $(ARGS)

test-oracles: install-sae  ## compare with sae-lens, repeng, steering-vectors and peft themselves
	@PILOTHOUSE_REQUIRE_TOOLS=1 $(BIN)/python -m pytest tests/artifacts/saes/test_against_saelens.py tests/oracles $(ARGS)

lint: install-dev  ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: python  ## compare the generated tables and build the site strictly (ARGS=--write rewrites the tables)
	@$(BOOTSTRAP) --with docs
	@$(BIN)/python scripts/generated_docs.py $(ARGS)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

compat: install-dev  ## try the seam on another vLLM (VERSION=0.31.0, ARGS="-x")
	@test -n "$(VERSION)" || { echo "make compat: which vLLM? VERSION=0.31.0" >&2; exit 2; }
	@$(BIN)/python scripts/compat.py $(VERSION) $(ARGS)

bench: install-dev  ## paired overhead runs through HTTP; writes the file BENCH_JSON names
	@$(BIN)/python loadtest/bench.py $(ARGS)

mutants: install-dev  ## show that the invariants' tests fail without their protection
	@$(BIN)/python tests/mutants/run.py $(ARGS)

clean:  ## remove .venv and what builds left
	@rm -rf .venv .venv-setup.lock build dist .pytest_cache .mypy_cache .ruff_cache
