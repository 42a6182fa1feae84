# make figures: from a fresh clone to the figures of the default experiment. make test: the test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed

.PHONY: install figures test lint bench clean

install: $(INSTALLED)

$(INSTALLED): envs/constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("saeworks needs Python 3.11 or newer; set it with `make PYTHON=python3.12 $(MAKECMDGOALS)`")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q torch==2.13.0 -c envs/constraints.txt
	$(BIN)/python -m pip install -q -c envs/constraints.txt -e '.[dev]'
	touch $@

figures: install
	$(BIN)/dvc pull novels-1m corpus@default
	$(BIN)/snakemake --cores all
	@echo "Figures: results/default/figures   Story: results/default/notebooks/braun2024.html"

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/saeworks document --root . --check

bench: install
	$(BIN)/python tests/benchmarks/activation_reads.py --out results/benchmarks/activation_reads.json
	$(BIN)/python tests/benchmarks/sampling.py --out results/benchmarks/sampling.json

clean:
	rm -rf $(VENV) scratch logs data/prepared data/activations
