# Two commands for a fresh machine with Python 3.10 or newer:
#   make demo   sets up and derains the bundled clip and picture
#   make test   sets up and passes the tests
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0 torchvision==0.28.0
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test lint clean

demo: $(VENV)/.runtime
	$(BIN)/sdps-run --input demo --output demo/comparison.mp4 --compare side
	$(BIN)/sdps-run --input assets/rainy.jpg --output demo/comparison.png --compare wipe
	@echo "Look at demo/comparison.png and demo/comparison.mp4"

# A worker that crashes fails the run: with this order of the tests xdist would wait for its successor for ever.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.runtime: $(VENV)/.venv pyproject.toml
	$(PIP) install -e '.[cpu,window]'
	touch $@

# PyTorch first, torchvision (for spandrel) of the same release: alone, a newer one would replace torch.
$(VENV)/.dev: $(VENV)/.venv pyproject.toml
	$(PIP) install $(TORCH)
	$(PIP) install -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo
