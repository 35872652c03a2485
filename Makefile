# make setup | demo | test | check (exactly what CI runs) | train | bench
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
DEMO := models/echoingpixels/assets/demo.mp4
QUESTION := Which object is visible when the bell plays?
ANSWER := cake

.PHONY: setup demo test check lint wheel train bench clean

setup: $(VENV)/ready

# torch first and pinned: the version everything here was measured with.
$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/ep ask $(DEMO) "$(QUESTION)"

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The wheel must work where nothing of this checkout can be seen.
wheel: setup
	rm -rf dist && $(BIN)/python -m build --wheel --outdir dist .
	$(BIN)/python tests/wheel.py dist $(TORCH)

check: lint test demo wheel

train: setup
	$(BIN)/ep train recipes/tiny.toml --out runs/tiny

# About a minute on the tiny model; docs/performance.md has the commands for real sizes.
bench: setup
	$(BIN)/python -m bench.prefill --model tiny --layers 2 --tokens 400
	MALLOC_MMAP_THRESHOLD_=262144 $(BIN)/python -m bench.memory --keep 0.1
	$(BIN)/python -m bench.towers $(DEMO) --seconds 10 --count --encode repeats:0.05,repeats:0.1
	$(BIN)/python -m bench.decode --ways static,lookup,echo
	$(BIN)/python -m bench.films $(DEMO) --repeat 1
	$(BIN)/python -m bench.first_token $(DEMO) --model tiny --seconds 6 --repeat 3

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
