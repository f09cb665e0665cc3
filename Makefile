# One verb a target. Everything happens in .venv; `make setup` does nothing when that is up to date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
# mypy and editors follow links in .venv/src, since the packages of `tickerforge` lie in folders of other names.
PACKAGES := features training evaluation tasks flows deployments
STAMP := $(VENV)/.installed-$(EXTRAS)
# One thread per core, and the same result on every run.
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help setup check audit test chaos demo up down clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

setup: $(STAMP) ## create .venv from the pinned constraints

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("TickerForge needs Python 3.11 or newer, this is " + sys.version.split()[0] + ": make setup PYTHON=/path/to/python3.11") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "setuptools>=80" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]'
	mkdir -p $(VENV)/src/tickerforge
	ln -sfn $(foreach package,$(PACKAGES),../../../$(package)) $(VENV)/src/tickerforge/
	@touch $(STAMP)

check: setup audit ## ruff, mypy, import-linter and the audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: setup ## known vulnerabilities of the pinned dependencies; skipped where the database does not answer
	$(BIN)/python .ci/audit.py

# Tests mostly wait for servers: two at a time, a file on one worker, so that what it starts is started once.
test: setup ## run the tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile

chaos: setup ## kill, starve and confuse a running service in every stage; some hours
	$(BIN)/pytest -m chaos

demo: setup ## the whole pipeline on a synthetic market: base model, three stages, comparison, gate, registry
	$(BIN)/tickerforge run --recipe deployments/recipes/demo.toml

up: setup ## start Prefect, MLflow and the workers on this machine, with all deployments
	$(BIN)/tickerforge up

down: setup ## stop them
	$(BIN)/tickerforge down

clean: ## remove .venv and caches; never results, models or the store
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
