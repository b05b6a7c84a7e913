# `make quickstart` and `make test` need Linux, Python >= 3.11 and a C compiler; they install everything else in .venv,
# quickstart only what it uses.
PYTHON ?= python3
VENV ?= .venv
# Where pip finds torch, for example https://download.pytorch.org/whl/cpu on a machine without a GPU.
TORCH_INDEX ?=
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
CORE = $(VENV)/.core
# The extra fast without EnvPool's meshes for MuJoCo Playground, 220 MB that no task of rlopt uses.
ENVPOOL = envpool envpool-assets envpool-assets-mujoco-large
ENVPOOL_NEEDS = dm-env glfw optree types-protobuf
STAMP = $(VENV)/.installed

.PHONY: quickstart test test-fast coverage notebooks lint types check venv web web-check docs gpu-check clean

venv: $(STAMP)

$(CORE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rlopt needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --no-compile -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(PIP) install --no-compile -c constraints.txt -e . $(ENVPOOL_NEEDS)
	$(PIP) install --no-compile -c constraints.txt --no-deps $(ENVPOOL)
	touch $@

$(STAMP): $(CORE)
	$(PIP) install -c constraints.txt -e '.[fast,test]'
	touch $@

quickstart: $(CORE)
	$(VENV)/bin/python scripts/quickstart.py

# A process for each core, and one thread in each: more threads than cores wait for one another.
test test-fast coverage notebooks: export OMP_NUM_THREADS = 1

test: venv notebooks
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Runs every cell; scripts/run_notebooks.py also keeps what they show.
notebooks: venv
	$(VENV)/bin/python -m pytest --nbmake --nbmake-timeout 900 notebooks

test-fast: venv
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

# The whole suite under measurement, commands that tests start included; the report lists files with lines no test executes.
coverage: venv
	$(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report=term --cov-fail-under=90

# Style; what a room may import (docs/design.md); words that the field has another one for.
lint: venv
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	PYTHONPATH=. $(VENV)/bin/lint-imports --no-logo --no-cache
	$(VENV)/bin/python scripts/check_vocabulary.py

types: venv
	$(VENV)/bin/mypy

check: lint types test

# The pages of docs/, of the agents, and the API, in site/. Wrong links and names are errors.
docs: venv
	$(PIP) install -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --site-dir site
	@echo 'open site/index.html, or with search: $(VENV)/bin/python -m http.server --directory site'

# Builds the ranking page again from its sources; needs Node 20.19 or newer. What it writes is committed.
web:
	cd rlopt/feedback/web && npm ci --no-audit --no-fund && npm run build

# Whether the committed page is what its sources give.
web-check: venv
	$(VENV)/bin/python -m pytest -q tests/web/page/test_page_build.py

# What is right and how fast it is on a GPU, docs/gpu.md; a second call continues.
gpu-check: venv
	$(VENV)/bin/python scripts/gpu_check.py --minutes 60

clean:
	rm -rf $(VENV) build site *.egg-info
