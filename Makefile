# Two commands do all the set-up: `make serve` and `make test`.
#
#   make serve                      install, prepare the models, serve on http://127.0.0.1:8200
#   make test                       install, then every check and every test
#   make chaos                      faults under load for 15 minutes, every answer checked
#   make audit                      look the pinned dependencies up in a database of known vulnerabilities
#   make bench                      compare with vLLM's own servers (and LiteLLM, vllm-router) on tiny models
#   make serve INSTALL=gateway      without vLLM: serve engines that run elsewhere (EMBED_BACKEND=vllm-http …)
#   INSTALL = auto | cpu | gpu | gateway      PYTHON = the interpreter that makes .venv

SHELL := /bin/bash
# The first interpreter that runs and is new enough; with none, the installer says what to do.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python3.14; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && echo $$p && exit; done; echo python3)
INSTALL ?= auto
BIN := .venv/bin
REQUIREMENTS := deploy/requirements

.PHONY: help install install-test models serve test check audit unit bench chaos pins clean

help:
	@sed -n '1,9s/^# \{0,1\}//p' Makefile

install:
	@$(PYTHON) deploy/install.py --flavour $(INSTALL)

install-test:
	@$(PYTHON) deploy/install.py --flavour $(INSTALL) --with-tests

serve: install
	@exec $(BIN)/memoria serve

models: install
	@$(BIN)/memoria models

test: install-test check audit
	$(BIN)/memoria models
	$(BIN)/pytest

check: install-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Known vulnerabilities of what is pinned; skipped, aloud, where their database can't be reached.
audit: install-test
	$(BIN)/python deploy/audit.py

unit: install-test
	$(BIN)/pytest tests/unit

bench: install
	$(BIN)/memoria bench --compare

chaos: install-test
	$(BIN)/python -m tests.chaos

# Compile the pin lists anew (needs npm). They are complete: installs use them with --no-deps.
pins: install
	$(UV) pip compile pyproject.toml $(PIN_FLAGS) -o $(REQUIREMENTS)/gateway.txt
	$(UV) pip compile pyproject.toml $(REQUIREMENTS)/cpu.in --extra cpu --override $(REQUIREMENTS)/cpu-overrides.txt $(PIN_FLAGS) -o $(REQUIREMENTS)/cpu.txt
	$(UV) pip compile pyproject.toml --extra gpu $(PIN_FLAGS) -o $(REQUIREMENTS)/gpu.txt
	$(UV) pip compile --group test -c $(REQUIREMENTS)/cpu.txt $(PIN_FLAGS) -o $(REQUIREMENTS)/test.txt
	$(UV) pip compile $(REQUIREMENTS)/clients.in $(PIN_FLAGS) -o $(REQUIREMENTS)/clients.txt
	npm install --prefix tests/compliance/node --package-lock-only --omit-lockfile-registry-resolved
	npm install --prefix $(REQUIREMENTS)/browser --package-lock-only --omit-lockfile-registry-resolved

UV := $(BIN)/python deploy/run_uv.py
PIN_FLAGS := --universal --python-version 3.11 --no-annotate --no-header --quiet

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
