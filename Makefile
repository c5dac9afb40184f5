# `make run` and `make test` are all that a newcomer needs: they make .venv themselves, with the versions of
# constraints.txt. A stamp for each set of packages remembers what .venv holds; it is renewed when the files change.

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
SOURCES := app streams examples tests benchmarks gunicorn.conf.py
PYTEST := $(BIN)/python -m pytest

.PHONY: help run cluster test test-cluster test-search check format reference bench bench-streams kafka chaos golden constraints clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

run: $(VENV)/.run ## start a node on http://127.0.0.1:8080 (settings: docs/operations.md)
	@exec $(BIN)/python -m app run

cluster: $(VENV)/.test ## start three brokers, three nodes (8081 to 8083) and an observer (8084); ends with Ctrl-C
	@exec $(BIN)/python -m tests.support.cluster

test: $(VENV)/.test ## run all tests of one node but the long fault runs; starts a real Kafka itself
	$(PYTEST) -n 2 --dist worksteal -m "not slow and not cluster and not search"

test-cluster: $(VENV)/.test ## three nodes as processes, and what befalls them: each fault once; takes some minutes
	$(PYTEST) -m "cluster and not slow"

test-search: $(VENV)/.test ## a real Elasticsearch and a real OpenSearch, started by the tests, fed through crashes; some minutes
	$(PYTEST) -m "search and not slow"

check: $(VENV)/.dev ## format, lint, types, the pages made from docstrings, layout
	$(BIN)/ruff format --check $(wildcard $(SOURCES))
	$(BIN)/ruff check $(wildcard $(SOURCES))
	$(BIN)/mypy
	$(BIN)/python -m tests.support.reference --check
	$(PYTEST) -q tests/test_tidy.py

format: $(VENV)/.dev ## put the sources into the one format
	$(BIN)/ruff check --fix $(wildcard $(SOURCES))
	$(BIN)/ruff format $(wildcard $(SOURCES))

reference: $(VENV)/.dev ## write docs/streams/reference anew, from the docstrings of streams
	$(BIN)/python -m tests.support.reference

bench: $(VENV)/.bench ## measure, print a table, write docs/benchmarks.md
	$(BIN)/python -m benchmarks

bench-streams: $(VENV)/.bench .cache/peers/.made ## streams beside Quix Streams and Faust; writes docs/benchmarks-streams.md
	$(BIN)/python -m benchmarks.streaming --write

kafka: $(VENV)/.test ## start a developer's broker and print its address; ends with Ctrl-C
	$(BIN)/python -m tests.support.broker

chaos: $(VENV)/.test ## the long fault runs, of one node and of a cluster, each fault many times, seeds printed
	$(PYTEST) -m slow

golden: $(VENV)/.test ## run the cases of tests/golden on Kafka Streams itself and write down what it does; needs a JDK
	$(BIN)/python -m tests.golden.make '$(or $(CASES),*)'

constraints: ## resolve all packages anew and pin them in constraints.txt
	@$(FIND_PYTHON) && rm -rf .cache/constraints && "$$python" -m venv .cache/constraints
	.cache/constraints/bin/python -m pip install -q '.[test,dev,bench]'
	@sed -n '/^#/p' constraints.txt > .cache/constraints.txt
	.cache/constraints/bin/python -m pip freeze --all --exclude pip --exclude profiles >> .cache/constraints.txt
	mv .cache/constraints.txt constraints.txt

clean: ## remove what was made, but never ./data
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find app streams examples tests -name __pycache__ -type d -exec rm -rf {} +

# The first Python of 3.11 or later that runs and has venv; a shim that points nowhere is passed over.
FIND_PYTHON = python=; for name in $(PYTHON) python3.11 python3.12 python3.13 python3.14 python3; do \
	if "$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; \
	then python="$$name"; break; fi; done; \
	if [ -z "$$python" ]; then \
	echo "Python 3.11 or later with venv is needed, and none was found. On Debian: apt install python3.11-venv." >&2; \
	echo "If it has another name: make PYTHON=/path/to/python run" >&2; exit 2; fi

$(VENV)/bin/python:
	@$(FIND_PYTHON) && echo "making $(VENV) with $$python" && "$$python" -m venv $(VENV)

INSTALL = $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e

.cache/peers/.made: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m venv .cache/peers
	.cache/peers/bin/python -m pip install -q --disable-pip-version-check '.[peers]'
	@touch $@

$(VENV)/.run: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) .
	@touch $@

$(VENV)/.test: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) '.[test]'
	@touch $@ $(VENV)/.run

$(VENV)/.bench: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) '.[test,bench]'
	@touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) '.[test,dev]'
	@touch $@ $(VENV)/.test $(VENV)/.run
