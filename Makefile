# make setup | demo | test | slow | check (exactly what CI runs) | lock | train | bench
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# torch is the version everything here was measured with, on every set of packages.
TORCH := torch==2.13.0
LOCKED := requirements/locked.txt
OLDEST := requirements/oldest.txt
DEMO := models/echoingpixels/assets/demo.mp4
QUESTION := Which object is visible when the bell plays?
ANSWER := cake

.PHONY: setup demo test slow newest oldest check lint wheel lock train bench clean

setup: $(VENV)/ready

$(VENV)/ready: pyproject.toml $(LOCKED)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(LOCKED) --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/ep ask $(DEMO) "$(QUESTION)"

# A process a core; the tests of one file share its fixtures.
PYTEST := -m pytest -n auto --dist loadfile

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A short set of tests on the newest allowed versions, whatever came out since `make lock`, and on the oldest.
newest:
	$(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager $(TORCH) --editable ".[dev]"
	OMP_NUM_THREADS=1 .venv-newest/bin/python $(PYTEST) -m "versions and not slow"

oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --constraint $(OLDEST) --editable ".[dev]"
	OMP_NUM_THREADS=1 .venv-oldest/bin/python $(PYTEST) -m "versions and not slow"

# The wheel must work where nothing of this checkout can be seen.
wheel: setup
	rm -rf dist && $(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python tests/wheel.py dist $(TORCH)

check: lint test slow newest oldest demo wheel

# Both files hold for every platform and for Python 3.11 and newer.
COMPILE = echo $(TORCH) | $(BIN)/uv pip compile pyproject.toml - --extra dev --universal --python-version 3.11 \
	--upgrade --no-annotate --custom-compile-command "make lock" --quiet

lock: setup
	$(COMPILE) --fork-strategy fewest --output-file $(LOCKED)
	$(COMPILE) --resolution lowest-direct --output-file $(OLDEST)

train: setup
	$(BIN)/python -m tools.train_tiny recipes/tiny.toml --out runs/tiny

# About a minute on the tiny model; docs/performance.md has the commands for real sizes.
bench: setup
	$(BIN)/python -m bench.prefill --model tiny --layers 2 --tokens 400
	MALLOC_MMAP_THRESHOLD_=262144 $(BIN)/python -m bench.memory --keep 0.1
	$(BIN)/python -m bench.towers $(DEMO) --seconds 10 --count --encode repeats:0.05,repeats:0.1
	$(BIN)/python -m bench.decode --ways static,lookup,echo
	$(BIN)/python -m bench.films $(DEMO) --repeat 1
	$(BIN)/python -m bench.first_token $(DEMO) --model tiny --seconds 6 --repeat 3

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest dist build .pytest_cache .mypy_cache .ruff_cache
