# make demo   install into .venv and run a small search (run it again to resume)
# make test   install what the tests need and run them
# make sanitize   the tests of the GPU kernels under sanitizers, on the processor
# make lint   ruff and mypy
# make docs   write the tables of configuration keys into docs, and build the site in build/site
# make clean  delete everything that can be made again, .venv included
#
# PYTHON=python3.12 make ... picks another Python.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test sanitize lint docs clean

demo: $(VENV)/.installed
	$(BIN)/optuna-wnn run examples/quickstart.yaml

# Tests go side by side, so linear algebra gets one thread in each: more would wait for each other.
test: $(VENV)/.installed-dev
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

# A launch is slow where every access is watched for races: each kernel, alone and in turns.
RACES := "order_of_threads or several_launches or not_fit_together or judged_in_one_launch or looks_ahead"
sanitize: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 tests/test_metal_faults.py tests/test_kernel_proofs.py
	METAL_SANITIZER=address $(BIN)/python -m pytest -n 2 tests/test_mlx.py tests/test_mlx_refine.py
	METAL_SANITIZER=thread $(BIN)/python -m pytest -n 2 tests/test_mlx.py tests/test_mlx_refine.py -k $(RACES)

# A type checker cannot follow package-dir, so it reads the packages through links in one tree.
lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@rm -rf build/typed && mkdir -p build/typed/optuna_wnn
	@ln -s "$(CURDIR)"/optuna_wnn/* "$(CURDIR)/samplers" "$(CURDIR)/evaluators" build/typed/optuna_wnn/
	MYPYPATH=build/typed $(BIN)/mypy build/typed/optuna_wnn optuna_wnn_command.py $(wildcard benchmarks/*.py examples/*.py examples/ecosystem/*.py) docs tests

docs: $(VENV)/.installed-dev
	$(BIN)/python -m optuna_wnn.schema docs
	$(BIN)/python -m sphinx -W --keep-going -q docs build/site
	@echo "Open build/site/index.html"

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 15) else \
	    "optuna-wnn needs Python 3.10 to 3.14, and $(PYTHON) is %d.%d; give another: PYTHON=python3.12 make ..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip>=21.3"
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "Installing into $(VENV) (a minute or two the first time)"
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.created pyproject.toml
	@echo "Installing into $(VENV) (a minute or two the first time)"
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.installed
