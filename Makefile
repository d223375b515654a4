# One command each; they create .venv when it is missing.
#   make quickstart   train, sweep and write the report
#   make check        lint, type check, quick tests: while you work
#   make test         lint, type check, all tests
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart
PYTEST_WORKERS ?= 2
# The tests of a file share what they compile and train: one process has all.
# Slow files go first (tests/conftest.py), not those of many tests.
SHARED := -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

.NOTPARALLEL:
.PHONY: help quickstart test test-all check lint clean

help:
	@echo 'make quickstart   train, sweep and write $(WORKDIR)/report.html'
	@echo 'make check        lint, type check and the quick tests: three minutes'
	@echo 'make test         lint, type check and the tests: about fifteen'
	@echo 'make test-all     the same properties on more bodies: about thirty'
	@echo 'make lint         lint, format check and type check only'
	@echo 'make clean        remove caches and build output (not .venv, not runs)'

quickstart: $(VENV)/.installed
	$(BIN)/python -m ease_jax.main --config=configs/quickstart.py \
	  --workdir=$(WORKDIR)

test: lint
	$(BIN)/python -m pytest $(SHARED) -m 'not again'

test-all: lint
	$(BIN)/python -m pytest $(SHARED)

# The quick tests are those that are not marked slow.
check: lint
	$(BIN)/python -m pytest $(SHARED) -m 'not slow and not again'

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
