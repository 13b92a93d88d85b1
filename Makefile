# The four doors: the same by hand and in CI. Each target sets up what it needs, and may be run twice, in any order.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests that run at once; each side starts a Ray of its own.
SIDES ?= 2

.PHONY: help setup demo test slow check bench clean
help:
	@echo "make demo    set up, fetch the sample corpus, run it end to end, search it"
	@echo "make test    set up and run the tests"
	@echo "make slow    the long tests: crashes, killed drivers, a bucket, everything fetched and decoded"
	@echo "make check   ruff, format, mypy --strict"
	@echo "make bench   the benchmarks (minutes each)"

$(READY): pyproject.toml requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "python3 is missing: install Python 3.11 (apt-get install python3 python3-venv)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) found: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed: apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV) (about 7 GB, mostly torch's CUDA libraries)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --compile-bytecode --requirement requirements.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@$(BIN)/python -m compileall -q raycluster
	@touch $@

setup: $(READY)

demo: $(READY)
	@$(BIN)/raycluster demo

test: $(READY)
	@$(BIN)/python -m pytest -q -n $(SIDES) --dist loadfile -m "not slow"

slow: $(READY)
	@$(BIN)/python -m pytest -q -n $(SIDES) --dist loadfile -m "slow and not alone"
	@$(BIN)/python -m pytest -q -m "slow and alone"

check: $(READY)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(READY)
	@for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

# The lake stays: .raycluster is where a user's datasets lie by default.
clean:
	rm -rf $(VENV) corpus
