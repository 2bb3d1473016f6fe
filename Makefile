# `make train` and `make test` do all the set-up that they need; the rest is listed by `make help`.
PYTHON ?= python3
ARGS ?=
DIR ?=
NAME ?=
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup train test test-cluster test-browser test-faults sweep tensorboard docs bench schema new-model new-task new-data rename check format clean

help: ## list the commands
	@sed -nE 's/^### (.*)/\n\1:/p; s/^([a-z-]+):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 17

# The stamps are files, so that a second call does not install again until the dependencies change.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 15) else "Leyden needs Python 3.10 to 3.14, $(PYTHON) is %d.%d: choose another by PYTHON=..." % v)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.train

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	@touch $@ $(VENV)/.train

### Train, and look at it

train: $(VENV)/.train ## train and evaluate; ARGS="model.dropout=0.2 seed=1" passes choices
	$(BIN)/python -m leyden.train $(ARGS)

sweep: $(VENV)/.train ## a small search: learning rate x batch size, in parallel, with its table and picture
	$(BIN)/python -m leyden.train -m sweep=grid trainer.max_epochs=2 seed=0 $(ARGS)

# Without DIR the run or sweep of which anything changed last.
tensorboard: $(VENV)/.train ## look at the newest run or sweep on localhost, or at all below DIR
	@dir="$(DIR)"; [ -n "$$dir" ] || dir=$$(ls -td outputs/*/*/ 2>/dev/null | head -1); \
	[ -n "$$dir" ] || { echo "outputs/ holds no run yet: make train makes one"; exit 1; }; \
	[ -d "$$dir" ] || { echo "DIR=$$dir: there is no such folder"; exit 1; }; \
	echo "$$dir"; exec $(BIN)/tensorboard --host localhost --logdir "$$dir"

### Make it yours

new-model: $(VENV)/.train ## write a new architecture: NAME=capsule makes models/capsule.py, its YAML and a search
	@$(BIN)/python scripts/new.py model "$(NAME)"
	@$(BIN)/python -m leyden.schema > /dev/null

new-task: $(VENV)/.train ## write a new task: NAME=ranking makes tasks/ranking.py and conf/task/ranking.yaml
	@$(BIN)/python scripts/new.py task "$(NAME)"
	@$(BIN)/python -m leyden.schema > /dev/null

new-data: $(VENV)/.train ## write a new data set: NAME=birds makes data/birds.py and conf/data/birds.yaml
	@$(BIN)/python scripts/new.py data "$(NAME)"
	@$(BIN)/python -m leyden.schema > /dev/null

rename: $(VENV)/.dev ## give your package a name: NAME=myproject renames src/project/ and what names it
	@$(BIN)/python scripts/rename.py "$(NAME)"
	-@$(BIN)/python -m leyden.schema

schema: $(VENV)/.train ## write .vscode/schema/, by which editors complete and check conf/ (docs/editors.md)
	@$(BIN)/python -m leyden.schema

### Check

test: $(VENV)/.dev ## run the tests; ARGS="-k keras" chooses, ARGS="-m slow" runs those that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadgroup $(ARGS)

check: $(VENV)/.dev ## lint, formatting and types, all findings at once
	@failed=0; $(BIN)/ruff check . || failed=1; $(BIN)/ruff format --check . || failed=1; $(BIN)/mypy || failed=1; exit $$failed

format: $(VENV)/.dev ## rewrite the code in the project's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The variable silences an advertisement of the theme.
docs: $(VENV)/.docs ## build the pages and the reference as a site that works offline: site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "to read it:  $(BIN)/python -m http.server --bind localhost --directory site"

### Check on what must be installed, or for longer

test-cluster: $(VENV)/.dev ## run the tests on a real Slurm, started for them; without one they skip and say why
	$(BIN)/python -m pytest -m cluster --numprocesses 2 $(ARGS)

test-browser: $(VENV)/.dev ## look at TensorBoard, optuna-dashboard and the docs in Chromium (Debian: apt install chromium fonts-dejavu)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,browser]'
	$(BIN)/python -m pytest -m browser $(ARGS)

test-faults: $(VENV)/.dev ## kills, damaged files, full disks, whatever can be typed; FAULTS_N=1000 for longer
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m faults --numprocesses 2 $(ARGS)

# Keras is in an environment of its own: TensorFlow is at odds with what constraints.txt pins.
bench: $(VENV)/.train ## measure beside Keras and others, 25 minutes; ARGS="--rounds 1 --only Leyden" chooses, ARGS="--busy" shares the cores
ifneq ($(findstring --busy,$(ARGS)),)
	$(BIN)/python scripts/bench/run.py $(ARGS)
else
	$(PYTHON) -m venv $(VENV)/bench
	$(VENV)/bench/bin/python -m pip install --quiet --editable '.[bench]'
	$(BIN)/python scripts/bench/run.py --keras-python $(VENV)/bench/bin/python $(ARGS)
	[ -n "$(ARGS)" ] || $(BIN)/python scripts/bench/stream.py
endif

### Set up

setup: $(VENV)/.dev schema ## make .venv and install everything, development tools too

clean: ## remove .venv and caches; data/ and outputs/ stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis site src/*.egg-info
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
