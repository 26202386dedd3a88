# Everything a developer or CI runs. Each target creates and updates .venv as it needs.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An extra package index for torch, where the default one brings CUDA libraries that this machine has no use for.
TORCH_INDEX := $(if $(KAITO_TORCH_INDEX),--extra-index-url $(KAITO_TORCH_INDEX))
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt $(TORCH_INDEX)

.PHONY: help demo test check fmt bench generate clean
help: ## This list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Kaito needs Python 3.11 or newer: make PYTHON=python3.11 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "No venv module: apt-get install python3-venv" >&2; rm -rf $(VENV); exit 1; }

$(VENV)/.product: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "Installing Kaito and what it trains with (about 1.5 GB, a minute)…"
	@$(PIP) --editable '.[tuning]'
	@touch $@

$(VENV)/.developer: $(VENV)/.product
	@echo "Installing what the tests and checks need…"
	@$(PIP) --editable '.[tuning,dev]'
	@touch $@

demo: $(VENV)/.product ## Fine-tune the demo model, push the adapter to a registry, pull it back and ask it
	@$(BIN)/python examples/demo/demo.py

test: $(VENV)/.developer ## All tests
	@tools/docker-registry >/dev/null
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal

check: $(VENV)/.developer ## Style, types, layers, generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python tools/generate.py --check

fmt: $(VENV)/.developer ## Format, and mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.developer ## The benchmarks, each both sides in one go
	@for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

generate: $(VENV)/.developer ## Write the generated files anew: CRDs, CLI reference
	@$(BIN)/python tools/generate.py

clean: ## Remove what the targets installed
	rm -rf $(VENV) .tools
