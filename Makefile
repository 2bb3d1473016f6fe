# `make train` and `make test` do all the set-up that they need; `make help` lists the rest.
PYTHON ?= python3
ARGS ?=
DIR ?=
NAME ?=
FROM ?=
ENGINE ?=
BIN := .venv/bin
LIBRARY := $(if $(wildcard engine/pyproject.toml),--editable './engine[train]')
CONSTRAINTS := $(if $(wildcard constraints.txt),--constraint constraints.txt)
# Not --quiet where it may get PyTorch, which takes minutes on a slow line.
INSTALL = $(BIN)/python -m pip install $(CONSTRAINTS)
# All but PyTorch, whose builds differ by machine, must be the files whose hashes are known: one replaced on the index is refused.
LOCKED = $(if $(wildcard $(1)),$(BIN)/python -m pip install --no-deps --require-hashes --requirement $(1))

.DEFAULT_GOAL := help
.PHONY: help setup train sweep tensorboard test check format new-model new-task new-data mine docs clean

help: ## list the commands
	@sed -nE 's/^### (.*)/\n\1:/p; s/^([a-z-]+):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 15

# The stamps are files, so that a second call does not install again until the dependencies change.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 15) else "Leyden needs Python 3.10 to 3.14, $(PYTHON) is %d.%d: choose another by PYTHON=..." % v)'
	$(PYTHON) -m venv .venv

.venv/.train: pyproject.toml $(wildcard constraints.txt hashes/train.txt engine/pyproject.toml) | $(BIN)/python
	$(call LOCKED,hashes/train.txt)
	$(INSTALL) $(LIBRARY) --editable .
	@touch $@

.venv/.dev: .venv/.train $(wildcard hashes/test.txt)
	$(call LOCKED,hashes/test.txt)
	$(INSTALL) --quiet --editable '.[dev]'
	@touch $@

### Train

train: .venv/.train ## train and evaluate; ARGS="seed=1" passes overrides
	$(BIN)/leyden train $(ARGS)

sweep: .venv/.train ## a small grid: learning rate x batch size, with its table
	$(BIN)/leyden train -m sweep=grid trainer.max_epochs=2 seed=0 $(ARGS)

# Without DIR: the run or sweep that changed last.
tensorboard: .venv/.train ## view the newest run or sweep on localhost, or all below DIR
	@dir="$(DIR)"; [ -n "$$dir" ] || dir=$$(ls -td outputs/*/*/ 2>/dev/null | head -1); \
	[ -n "$$dir" ] || { echo "outputs/ has no run yet: make train makes one"; exit 1; }; \
	[ -d "$$dir" ] || { echo "DIR=$$dir: there is no such folder"; exit 1; }; \
	echo "$$dir"; exec $(BIN)/tensorboard --host localhost --logdir "$$dir"

### Extend

new-model: .venv/.train ## write a network: NAME=capsule makes models/capsule.py, its YAML
	@$(BIN)/leyden new model="$(NAME)"

new-task: .venv/.train ## write a task: NAME=ranking makes tasks/ranking.py, its YAML; FROM=forecast, …
	@$(BIN)/leyden new task="$(NAME)" $(if $(FROM),from="$(FROM)")

new-data: .venv/.train ## write a dataset: NAME=birds makes data/birds.py, its YAML
	@$(BIN)/leyden new data="$(NAME)"

mine: .venv/.dev ## make it your project: NAME=kanlab; ENGINE=… replaces engine/
	@$(BIN)/python engine/scripts/mine.py "$(NAME)" "$(ENGINE)"

### Check

test: .venv/.dev ## run the tests; ARGS="-k mlp" selects some
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 $(ARGS)

check: .venv/.dev ## lint, formatting and types, all findings at once
	@failed=0; $(BIN)/ruff check . || failed=1; $(BIN)/ruff format --check . || failed=1; $(BIN)/mypy || failed=1; exit $$failed

format: .venv/.dev ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

### Set up

setup: .venv/.dev ## make .venv, and install everything

docs: ## build the library's pages, as a site that works offline
	@[ -d engine ] || { echo "the pages are those of the library's repository"; exit 1; }
	@$(MAKE) --no-print-directory -C engine docs

clean: ## remove .venv and caches; data/ and outputs/ stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
