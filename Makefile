# `make help` lists the targets. Everything is installed into .venv; nothing outside the checkout changes.
PYTHON ?= python3
# uv's own environment variables and a cache on a scratch disk are respected.
export VIRTUAL_ENV := $(CURDIR)/.venv
BIN := .venv/bin
UV := $(BIN)/uv
# Which lock: cuda13, cuda12 (older drivers) or cpu. The choice is remembered in .venv.
LOCK ?= $(or $(shell cat .venv/.lock 2>/dev/null),cuda13)
LOCKED := envs/requirements$(if $(filter cuda13,$(LOCK)),,-$(LOCK)).txt
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)

.PHONY: help setup setup-dev page demo test-fast test test-local test-slurm lint format lock reference clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(UV):
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; make PYTHON=python3.12 …")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv

.venv/.ready-$(LOCK): $(UV) $(LOCKED) pyproject.toml
	@# Compiled once here, or every one of the workflow's many short processes would compile again.
	@# The locks list all that is needed.
	$(UV) pip install --quiet --compile-bytecode --require-hashes --no-deps -r $(LOCKED)
ifeq ($(LOCK),cpu)
	@# PyTorch's own index has the builds without CUDA; uv knows it.
	$(UV) pip install --quiet --compile-bytecode --torch-backend=cpu \
	  $$(grep -oE '^(torch|torchvision)==[0-9.]+' envs/requirements.txt)
endif
	$(UV) pip install --quiet --no-deps --editable .
	@# An earlier version's build left its description here, without requirements.
	@rm -rf workflow/foldwise.egg-info
	@rm -f .venv/.ready-* && echo $(LOCK) > .venv/.lock && touch $@

.venv/.ready-dev: .venv/.ready-$(LOCK) envs/requirements-dev.txt
	$(UV) pip install --quiet --compile-bytecode --require-hashes -r envs/requirements-dev.txt
	@touch $@

setup: .venv/.ready-$(LOCK)  ## install Foldwise into .venv; LOCK=cuda12 for older drivers, LOCK=cpu without a GPU

setup-dev: .venv/.ready-dev  ## also install what tests and checks need

PAGE := workflow/foldwise/web/built/page.js
# Where none is installed, Node.js comes from PyPI.
NODE = PATH="$(if $(shell command -v npm),$$PATH,$(CURDIR)/.venv/bin:$$PATH)"

$(PAGE): $(wildcard page/src/*.js) page/build.js page/index.html page/style.css page/package-lock.json | $(UV)
ifeq ($(shell command -v npm),)
	$(UV) pip install --quiet --require-hashes -r envs/requirements-page.txt
endif
	cd page && $(NODE) npm ci --silent && $(NODE) node build.js

page: $(PAGE)  ## build the annotation page; needs npm's registry once

demo: setup  ## run the whole workflow on generated chest CTs; minutes on two cores
	$(BIN)/foldwise demo . --cores $(CORES)

test-fast: setup-dev page  ## run only the quick tests of the library
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not slurm" tests/unit

test: setup-dev page  ## run all tests, with Slurm if it is installed
	@# Those on Slurm mostly wait: they run at the same time as the others, which give way to them.
	$(MAKE) --jobs=2 test-local test-slurm

test-local: setup-dev page
	@# A file's tests share costly fixtures, so they stay together. Files of few tests are the slowest, and would come last.
	nice -n 10 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slurm"

test-slurm: setup-dev
	@# There is one cluster.
	$(BIN)/python -m pytest -m slurm

lint: setup-dev  ## formatters, linters and types, as in CI
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/mypy
	$(BIN)/snakemake --lint

format: setup-dev  ## format everything
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

COMPILE := pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-annotate --no-emit-index-url --upgrade

lock: $(UV)  ## lock the newest versions in envs/*.txt
	$(UV) $(COMPILE) pyproject.toml -o envs/requirements.txt
	$(UV) $(COMPILE) -c envs/requirements-cuda12.in pyproject.toml -o envs/requirements-cuda12.txt
	@# All but PyTorch and what it needs for CUDA.
	$(UV) $(COMPILE) -c envs/requirements.txt pyproject.toml -o envs/requirements-cpu.txt \
	  $$(grep -oE '^(torch|torchvision|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' envs/requirements.txt \
	    | grep -v nvidia-ml-py | sed 's/^/--no-emit-package /; s/==//')
	$(UV) $(COMPILE) -c envs/requirements.txt pyproject.toml envs/requirements-dev.in -o envs/requirements-dev.txt
	$(UV) $(COMPILE) -c envs/requirements.txt pyproject.toml envs/requirements-bench.in -o envs/requirements-bench.txt
	$(UV) $(COMPILE) envs/requirements-page.in -o envs/requirements-page.txt
	$(MAKE) reference

reference: setup  ## regenerate docs/settings.md, docs/reruns.md and the JSON schema
	$(BIN)/python -m foldwise.reference

clean:  ## remove the environment and the demo's outputs
	rm -rf .venv results/demo results/phantom results/data/phantom-*
