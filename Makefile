# Everything a person or CI does here. On a bare machine with Python 3.11, gcc and make: `make serve`, `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
# Where it is set, each of the hundreds of processes that tests start would compile the source again.
unexport PYTHONDONTWRITEBYTECODE
.PHONY: help install serve test check format docs bench tools clean

# A command is tried, not only looked up: pyenv leaves a `python3.11` on PATH that refuses to run.
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install $(shell test -t 2 || echo --quiet) -c constraints.txt
SOURCES := src tests docs $(wildcard benchmarks)

help: ## show this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## build .venv with Terascope and the torch engine in it

serve: $(VENV)/.installed ## install, then run the gateway with its two default models; ARGS="--port 9000"
	@exec $(BIN)/terascope serve --data-dir .terascope $(ARGS)

test: $(VENV)/.installed-dev tools check ## everything CI runs: the static checks, then the whole suite; ARGS="-k name"
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

check: $(VENV)/.installed-dev ## the static checks: format, lint, types, import order, generated pages
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

format: $(VENV)/.installed-dev ## put the code into its format and mend what ruff can mend
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

docs: $(VENV)/.installed-dev ## write the generated pages, then check links and run every code block
	$(BIN)/python docs/generate.py
	$(BIN)/pytest tests/docs $(ARGS)

bench: $(VENV)/.installed ## run benchmarks/NAME.py: make bench NAME=gateway
	@test -n "$(NAME)" || { echo 'say which: make bench NAME=$(patsubst benchmarks/%.py,%,$(firstword $(wildcard benchmarks/[a-z]*.py)))'; exit 2; }
	$(BIN)/python benchmarks/$(NAME).py $(ARGS)

clean: ## remove .venv and what tools leave behind; .terascope (your data) stays
	rm -rf $(VENV) .venvs build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info

# What the tests use besides this environment: programs, and vLLM and llama.cpp in some of their own. RUNLEVEL=1: install, do not start.
tools: $(VENV)/.installed-dev
	@missing=""; ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || missing=" postgresql"; \
	for tool in nginx node npm curl openssl; do command -v $$tool >/dev/null || missing="$$missing $${tool/#node/nodejs}"; done; \
	for tool in slurmctld slurmd munged; do PATH=$$PATH:/usr/sbin command -v $$tool >/dev/null || missing="$$missing $${tool/#munged/munge} slurm-client"; done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  { apt-get install -y --no-install-recommends $$missing || { apt-get update && apt-get install -y --no-install-recommends $$missing; }; } >/dev/null; \
	elif [ -n "$$missing" ]; then echo "not installed, so their tests are skipped:$$missing"; fi
	@$(BIN)/python benchmarks/harness/vllm.py >/dev/null || echo "vLLM cannot be installed, so its tests are skipped"
	@$(BIN)/python benchmarks/harness/llamacpp.py >/dev/null || echo "llama.cpp cannot be installed, so its tests are skipped"
	@$(BIN)/python benchmarks/harness/sglang.py >/dev/null || echo "SGLang cannot be fetched, so tests of its command lines are skipped"
tools: export RUNLEVEL := 1
tools: export DEBIAN_FRONTEND := noninteractive

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Terascope needs Python 3.11 or newer; name it with: make install PYTHON=/path/to/python3.11'; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  package="python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"; \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    apt-get install -y $$package || { apt-get update && apt-get install -y $$package; }; \
	  else echo "this Python cannot make virtual environments; as root: apt-get install $$package"; exit 1; fi; }
	$(PYTHON) -m venv $(VENV)

# The stamps: a second `make install` does nothing until pyproject.toml or constraints.txt changes.
$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) -e '.[torch,retrieval]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP_INSTALL) -e '.[torch,openvino,hpc,capture,retrieval,arrays,plot,dev]'
	@touch $(VENV)/.installed $@
