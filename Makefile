# `make demo` takes a fresh clone to a served model, `make test` runs every check.
# Needs Python 3.11 to 3.14 and make, nothing else.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types imports browser format clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

# Tests that measure no time; the others run alone.
SIDE_BY_SIDE := tests/unit tests/foreign tests/integration/test_every_model.py tests/integration/test_pruned_models.py

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.cpu ## train, compress, measure and report the digits model
	$(BIN)/lissom run recipes/digits.yaml

test: lint types imports browser ## run every check and every test
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest $(SIDE_BY_SIDE) --numprocesses auto --dist loadfile
	PATH="$(CURDIR)/$(BIN):$$PATH" python -m pytest $(SIDE_BY_SIDE:%=--ignore %)

lint: $(VENV)/.dev ## style, formatting, Dockerfile
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

types: $(VENV)/.dev ## mypy, strict, on src
	$(BIN)/mypy

imports: $(VENV)/.dev ## the one-way import rule
	$(BIN)/lint-imports

format: $(VENV)/.dev ## rewrite what ruff can fix
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The browser tests drive Chromium; where it cannot be had they are skipped, and this says so.
browser:
	@has_chromium() { command -v chromium && command -v chromedriver; } >/dev/null 2>&1; \
	if ! has_chromium && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "Installing Chromium for the browser tests ..."; \
	  { apt-get update && DEBIAN_FRONTEND=noninteractive \
	    apt-get install --yes --no-install-recommends chromium chromium-driver; } >/dev/null 2>&1 || true; \
	fi; \
	has_chromium || echo "Chromium (chromium and chromedriver) is not installed: the browser tests are skipped."

clean: ## remove the virtual environment, build output and caches (keeps runs/)
	rm -rf $(VENV) build dist src/*.egg-info .coverage* htmlcov
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(VENV)/.cpu: pyproject.toml | $(VENV)/.created
	@echo "Installing lissom[cpu] into $(VENV); the first time takes minutes ..."
	$(PIP) install --editable '.[cpu,explain]'
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.created
	@echo "Installing lissom[cpu,dev] into $(VENV); the first time takes minutes ..."
	$(PIP) install --editable '.[cpu,dev]'
	@touch $(VENV)/.cpu $@

# Keeps an environment that works. Otherwise takes the first interpreter that really runs and is recent
# enough: `python3` may be old, or a shim that points nowhere. Debian splits venv off: as root, fetch it.
$(VENV)/.created:
	@$(BIN)/python -m pip --version >/dev/null 2>&1 && { touch $@; exit; }; \
	for python in $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14; do \
	  "$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null || continue; \
	  "$$python" -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && { apt-get update && \
	    apt-get install --yes --no-install-recommends python3-venv; } >/dev/null 2>&1 || true; }; \
	  "$$python" -m venv --clear $(VENV) && touch $@; exit; \
	done; \
	echo "lissom needs Python 3.11 to 3.14, found: $$(python3 --version 2>&1 || true)." >&2; \
	echo "Install one and run make again, or name it: make PYTHON=/path/to/python3.12" >&2; \
	exit 3
