# make demo: one real photo through the whole method.   make test: the tests, but for the slow ones of `make test-slow`.
# Both make .venv first; an interrupted try goes on where it stopped.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP_ARGS ?=
JOBS ?= 2
STAMP := .venv/.installed
RUN := .venv/bin/python
# Whole files to each process, in the order of tests/conftest.py
TESTS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test test-slow test-fast coverage lint docs clean-venv
.DELETE_ON_ERROR:

setup: $(STAMP)

# A virtual environment whose making was interrupted has no pip: it is made again from nothing.
$(STAMP): setup.cfg constraints.txt pyproject.toml
	@$(RUN) -m pip --version >/dev/null 2>&1 || { rm -rf .venv; "$(PYTHON)" -m venv .venv; }
	$(RUN) -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[app,sweep,export,docs,dev]'
	@touch $@

demo: setup
	.venv/bin/oodgan pipeline experiment=demo

# The weights come first and once: test processes that run side by side must not download the same file.
test: setup
	.venv/bin/oodgan weights fetch all
	$(TESTS) -m "not slow" --durations=60 --durations-min=10

# Tests of over 20 seconds: killed and distributed trainings, exports, whole documents (README's commands, notebooks), real clusters.
test-slow: setup
	.venv/bin/oodgan weights fetch all
	$(TESTS) -m slow --durations=60 --durations-min=10

test-fast: setup
	$(TESTS) -m "not slow and not network"

# Lines and branches that the quick tests run, as a table and in htmlcov/; tests in subprocesses count too.
coverage: setup
	$(TESTS) -m "not slow and not network" \
		--cov --cov-report=term:skip-covered --cov-report=html

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check src tests
	$(RUN) -m mypy
	.venv/bin/lint-imports --no-cache

docs: setup
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

clean-venv:
	rm -rf .venv
