# make bench   set up .venv and run the suite rooms-quick: a table here, pictures and a page in results/
# make test    set up .venv and run ruff, mypy and pytest
# make setup   set up .venv alone, with everything the tests need
#
# PYTHON=python3.12   another interpreter (3.11 or newer)
# WORKERS=4           another number of processes, one thread each, for `make bench` and the tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= $(shell n=$$(env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN); \
	[ "$$n" -gt 8 ] && n=8; echo "$$n")
PINNED := pyproject.toml constraints.txt
PIP := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt
# A file of tests stays in one process: what it sets up once is set up once. Long files come first (tests/conftest.py).
TEST := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: bench test setup clean

bench: $(VENV)/installed
	$(BIN)/intrinsic-bench run rooms-quick --workers $(WORKERS)

test: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(TEST)

setup: $(VENV)/installed-test

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache

# pip is the last thing `python -m venv` writes: if it is there, the environment is whole.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "asked:  an environment made by '$(PYTHON)', which is: $$($(PYTHON) --version 2>&1)"; \
		echo "wrong:  Python 3.11 or newer is needed"; \
		echo "to do:  make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 1; } >&2
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(PINNED) | $(BIN)/pip
	$(PIP) --editable .
	@touch $@

$(VENV)/installed-test: $(PINNED) | $(BIN)/pip
	$(PIP) --editable '.[test]'
	@touch $(VENV)/installed $@
