# make setup | demo | test | slow | lint | check (exactly what CI runs) | docs | lock | train | results | bench
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The torch version of all measurements; every set of packages has it.
TORCH := torch==2.13.0
LOCKED := requirements/locked.txt
OLDEST := requirements/oldest.txt
DEMO := models/echoingpixels/assets/demo.mp4
QUESTION := Which object is visible when the bell plays?
ANSWER := cake

.PHONY: setup demo test slow newest oldest check lint site docs wheel lock train results bench clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml $(LOCKED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(LOCKED) --editable ".[dev,ray]"
	touch $@

demo: setup
	$(BIN)/ep ask $(DEMO) "$(QUESTION)"

# One process per core; the tests of one file share its fixtures.
PYTEST := -m pytest -n auto --dist loadfile

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m ray

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/check_prose.py

# The guide and the API reference; without network access, and a broken link is an error.
site: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

# A short set of tests on the newest allowed versions, published since `make lock`, and on the oldest.
newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager $(TORCH) --editable ".[dev]"
	OMP_NUM_THREADS=1 .venv-newest/bin/python $(PYTEST) -m "versions and not slow"

oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint $(OLDEST) --editable ".[dev]"
	OMP_NUM_THREADS=1 .venv-oldest/bin/python $(PYTEST) -m "versions and not slow"

# The wheel must work outside this checkout.
wheel: setup
	rm -rf dist && $(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python tests/wheel.py dist $(TORCH)

check: lint site test slow newest oldest demo wheel

# Both files are valid on every platform and on Python 3.11 and newer.
COMPILE = echo $(TORCH) | $(BIN)/uv pip compile pyproject.toml - --extra dev --universal --python-version 3.11 \
	--upgrade --no-annotate --custom-compile-command "make lock" --quiet

lock: setup
	$(COMPILE) --extra ray --fork-strategy fewest --output-file $(LOCKED)
	$(COMPILE) --resolution lowest-direct --output-file $(OLDEST)

train: setup
	$(BIN)/python -m tools.train_tiny recipes/tiny.toml --out runs/tiny

# Every figure, table and plot of docs/results.md: hours, but nothing is measured twice. Ablations need `make train`.
results: setup
	$(BIN)/python -m tools.results

# About a minute on the tiny model; docs/performance.md has the commands for real sizes.
bench: setup
	$(BIN)/python -m bench.prefill --model tiny --layers 2 --tokens 400
	MALLOC_MMAP_THRESHOLD_=262144 $(BIN)/python -m bench.memory --keep 0.1
	$(BIN)/python -m bench.encoders $(DEMO) --seconds 10 --count --reuse 0.05,0.1
	$(BIN)/python -m bench.decode --ways static
	$(BIN)/python -m bench.films $(DEMO) --repeat 1
	$(BIN)/python -m bench.first_token $(DEMO) --model tiny --seconds 6 --repeat 3
	$(BIN)/python -m bench.gpu --device cpu --no-compile

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest dist build .pytest_cache .mypy_cache .ruff_cache
