# make figures: from a fresh clone to the figures of the default experiment. make test: the test suite.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
INSTALLED := $(VENV)/installed

.PHONY: install figures test kernels lint docs bench interop clean

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

test: install
	$(BIN)/python -m pytest -n auto

# Triton, for the kernels of sparse training on CUDA; part of torch's CUDA build, and 0.7 GB
kernels: install
	$(BIN)/python -m pip install -q -c envs/constraints.txt -e '.[kernels]'

# SAELens and sparsify need another transformer-lens and transformers than ours, so they have an environment of their own.
interop: install $(PEERS)/installed
	SAEWORKS_PEERS=$(PEERS)/bin/python $(BIN)/python -m pytest tests/interop

$(PEERS)/installed: envs/peers-constraints.txt
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q torch==2.13.0 -c $<
	$(PEERS)/bin/python -m pip install -q -c $< sae-lens eai-sparsify
	$(PEERS)/bin/python -m pip install -q -c $< --no-deps dictionary-learning e2e_sae
	touch $@

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/saeworks document --root . --check

# The site, without a network; a link that leads nowhere is an error.
docs: $(VENV)/docs-installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q --strict
	@echo "Site: site/index.html"

$(VENV)/docs-installed: $(INSTALLED)
	$(BIN)/python -m pip install -q -c envs/constraints.txt -e '.[docs]'
	touch $@

# Half an hour on two quiet cores; the figures of a busy machine are worth little.
bench: install $(PEERS)/installed
	$(BIN)/python tests/benchmarks/activation_reads.py --out results/benchmarks/activation_reads.json
	$(BIN)/python tests/benchmarks/sampling.py --out results/benchmarks/sampling.json
	$(BIN)/python tests/benchmarks/training.py --peers $(PEERS)/bin/python --threads 1 2 --out results/benchmarks/training.json --cases relu topk gated topk_auxk
	$(BIN)/python tests/benchmarks/training.py --threads 1 2 --out results/benchmarks/training_dense_start.json --cases relu_dense
	$(BIN)/python tests/benchmarks/end_to_end.py --peers $(PEERS)/bin/python --threads 1 2 --out results/benchmarks/end_to_end.json
	$(BIN)/python tests/benchmarks/together.py --out results/benchmarks/together.json
	$(BIN)/python tests/benchmarks/geometry.py --out results/benchmarks/geometry.json
	$(BIN)/python tests/benchmarks/errors.py --out results/benchmarks/errors.json
	$(BIN)/python tests/benchmarks/gpu.py --out results/benchmarks/cuda.json

clean:
	rm -rf $(VENV) $(PEERS) scratch logs site data/prepared data/activations
