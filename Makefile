# The commands of this repository. `make serve` and `make test` need nothing but make and Python 3.11 or later with venv.
#
#   make serve ARGS="--port 9000"     serve; ARGS are the arguments of `tokenwell serve`
#   make test                         every check and every test; ARGS are arguments of pytest
#   make test-agents                  real agents from the npm registry against the scripted engine; needs npm, some minutes
#   make check                        the checks alone: style, types, imports, house rules
#   make bench                        every script in benchmarks/, one JSON line each
#   make clean | distclean            remove caches | and the virtual environment
#
# WORKERS=0 runs the tests one after another in one process instead of in three (docs/decisions/0003).
# PYTHON=python3.12 takes another interpreter for a new .venv.
# TORCH="torch==2.11.0" takes another torch, for instance the build for your GPU.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve test test-agents check lint bench clean distclean

PYTHON ?= python3
TORCH ?= torch==2.13.0
ARGS ?=
WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := src tests benchmarks training
AGENTS := .agents
NPM_FLAGS := --no-audit --no-fund --loglevel=error
include tests/agents/versions.mk

help:
	@sed -n 's/^#   //p' Makefile

# A stamp is newer than pyproject.toml when everything that it names is installed. The tests' packages include the service's.
$(VENV)/serve.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing Tokenwell into $(VENV); the first time takes some minutes." >&2
	@$(PIP) install --quiet "$(TORCH)"
	@$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/test.stamp: pyproject.toml | $(BIN)/python
	@echo "Installing Tokenwell and what its tests need into $(VENV); the first time takes some minutes." >&2
	@$(PIP) install --quiet "$(TORCH)"
	@$(PIP) install --quiet --editable ".[test]"
	@touch $@ $(VENV)/serve.stamp

$(BIN)/python:
	@command -v "$(PYTHON)" >/dev/null || { \
	  echo "There is no $(PYTHON). On Debian and Ubuntu: sudo apt-get install python3 python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is $$("$(PYTHON)" --version), but 3.11 or later is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install" \
	    "$$("$(PYTHON)" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" >&2; exit 1; }
	@rm -f $(VENV)/*.stamp
	@"$(PYTHON)" -m venv --clear $(VENV)

serve: $(VENV)/serve.stamp
	@exec $(BIN)/tokenwell serve $(ARGS)

# Tests start many services, which would compile their modules again each time where Python may not keep what it compiled.
test: lint
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

test-agents: $(VENV)/test.stamp $(AGENTS)/stamp
	@$(BIN)/python -m pytest tests/agents $(ARGS)

# OpenClaw wants a newer node than distributions have, and none of the scripts of what it is made of.
$(AGENTS)/stamp: tests/agents/versions.mk
	@command -v npm >/dev/null || { echo "There is no npm. On Debian and Ubuntu: sudo apt-get install npm" >&2; exit 1; }
	@echo "Installing agents into $(AGENTS), about 1.5 GB." >&2
	@mkdir -p $(foreach agent,opencode codex claude openclaw,$(AGENTS)/$(agent))
	@npm install --prefix $(AGENTS)/opencode $(NPM_FLAGS) $(OPENCODE)
	@npm install --prefix $(AGENTS)/codex $(NPM_FLAGS) $(CODEX)
	@npm install --prefix $(AGENTS)/claude $(NPM_FLAGS) $(CLAUDE_CODE)
	@npm install --prefix $(AGENTS)/openclaw $(NPM_FLAGS) --ignore-scripts $(OPENCLAW)
	@touch $@

check: lint
	@$(BIN)/python -m pytest tests/house

lint: $(VENV)/test.stamp
	@$(BIN)/ruff check $(SOURCES)
	@$(BIN)/ruff format --check $(SOURCES)
	@$(BIN)/mypy
	@$(BIN)/lint-imports --cache-dir .import_linter_cache

bench: $(VENV)/test.stamp
	@for script in benchmarks/*.py; do $(BIN)/python "$$script" $(ARGS) || exit 1; done

clean:
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find $(SOURCES) -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) $(AGENTS)
