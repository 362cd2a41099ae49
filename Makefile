# `make run` and `make test` need python3 >= 3.11 (with venv) and make; they install what is missing into .venv, once.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: run test test-fast lint format docs clean

run: .venv/installed
	$(BIN)/bayes-mbrl run $(ARGS)

test: .venv/installed-test
	$(BIN)/python -m pytest $(ARGS)

test-fast: .venv/installed-test
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

lint: .venv/installed-test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# build/docs/index.html; warnings are errors, a broken link or a page that no menu has among them.
docs: .venv/installed-test
	cd docs && ../$(BIN)/python -m docsite.assemble ../build/docs-source
	$(BIN)/python -m sphinx -W --keep-going --quiet -c docs build/docs-source build/docs $(ARGS)

# torch comes first and alone: resolved together with the rest, another package may pull its newest CUDA build.
.venv/installed: setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "need python3 >= 3.11, got " + sys.version.split()[0] + ": make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
