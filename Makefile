# `make demo` and `make test` do all their set-up themselves: a virtual environment with pinned packages.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
DEMO_DIR ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo test quick docs clean

demo: .venv/installed  ## the whole method in minutes on a laptop CPU
	$(BIN)/selfjudge demo --output-dir $(DEMO_DIR)

test: .venv/installed-test  ## everything that must hold: style, types, tests, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site
	$(BIN)/python -m pytest

quick: .venv/installed-test  ## the tests that take seconds
	$(BIN)/python -m pytest -m "not slow"

docs: .venv/installed-test  ## the documentation at http://127.0.0.1:8000
	$(BIN)/mkdocs serve

clean:
	rm -rf .venv build

.venv/created:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
		|| { echo "selfjudge needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable ".[test]"
	@touch $@
