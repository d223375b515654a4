# One command each; both create .venv when it is missing.
#   make quickstart   train, sweep and write the report
#   make test         lint, type check, tests
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart
PYTEST_WORKERS ?= 2

.NOTPARALLEL:
.PHONY: help quickstart test lint clean

help:
	@echo 'make quickstart   train, sweep and write $(WORKDIR)/report.html'
	@echo 'make test         lint, type check and run the tests'
	@echo 'make lint         lint, format check and type check only'
	@echo 'make clean        remove caches and build output (not .venv, not runs)'

quickstart: $(VENV)/.installed
	$(BIN)/python -m ease_jax.main --config=configs/quickstart.py \
	  --workdir=$(WORKDIR)

test: lint
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS)

lint: $(VENV)/.installed-dev
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

# The stamps: setup.py newer than the last installation means install again.
$(VENV)/.installed: setup.py | $(BIN)/pip
	@echo 'Installing ease_jax into $(VENV) ...'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: setup.py | $(BIN)/pip
	@echo 'Installing ease_jax and its test tools into $(VENV) ...'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $(VENV)/.installed $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  2>/dev/null || { echo 'ease_jax needs Python 3.11 or newer:' \
	  '$(PYTHON) is missing or older; try make PYTHON=python3.12' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +
