# `make quickstart` and `make test` need Linux, Python >= 3.11 and a C compiler; they install everything else in .venv.
PYTHON ?= python3
VENV ?= .venv
# Where pip finds torch, for example https://download.pytorch.org/whl/cpu on a machine without a GPU.
TORCH_INDEX ?=
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
STAMP = $(VENV)/.installed

.PHONY: quickstart test test-fast lint types check venv clean

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlopt needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install -c constraints.txt -e '.[fast,test]'
	touch $@

quickstart: venv
	$(VENV)/bin/python scripts/quickstart.py

test: venv
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile

test-fast: venv
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile -m 'not slow'

lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: venv
	$(VENV)/bin/mypy

check: lint types test

clean:
	rm -rf $(VENV) build *.egg-info
