# Each target works alone on a machine with Python 3.11 or later and make.
#
# demo   the handwritten digits on an 8T SRAM from ngspice   -> out/demo/report.html
# test   lint, then every test
# lint   ruff, mypy, the layers
# bench  the published settings and the speed of the plans
# data   the test data                                       -> .data/
#
# PYTHON chooses the interpreter of .venv, PIP_ARGS is added to every `pip install`.
#
# Tests, examples and benchmarks look for data in BITLINE_DATA and for trained networks in BITLINE_NETWORKS. Set them
# yourself, or keep the project's data in ../shared and run `make data`: it unpacks ../shared/data into .data/ in the
# sets' official layout and links the folders that need no unpacking, so that BITLINE_DATA holds
#   cifar-10-batches-bin/  cifar-100-binary/  MNIST/raw/  measured/  adc/  spice/

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
SHARED := $(wildcard ../shared)

ifneq ($(SHARED),)
ifneq ($(wildcard .data),)
export BITLINE_DATA ?= $(abspath .data)
endif
ifneq ($(wildcard ../shared/networks),)
export BITLINE_NETWORKS ?= $(abspath ../shared/networks)
endif
endif

# Compiling the modules nobody imports takes longer than everything pip unpacks.
INSTALL = $(BIN)/python -m pip install -q --no-compile --prefer-binary --disable-pip-version-check --no-input \
	$(PIP_ARGS) -c constraints.txt

# What is not read from src/ as it stands: a change asks for a new install.
FUSED := src/bitline/macro/fused
SOURCES := pyproject.toml setup.py constraints.txt $(FUSED)/kernel.cpp $(wildcard $(FUSED)/kernel/*.h)

.PHONY: demo test lint bench data clean environment

demo: $(VENV)/runtime.stamp
	$(BIN)/bitline demo --out out/demo

test: lint
	$(BIN)/python -m pytest -n $(WORKERS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks

data: .data .data/measured .data/adc .data/spice

# For pytest by hand: eval "$(make -s environment)" gives it what `make test` gives.
environment:
	@echo 'export BITLINE_DATA="$(BITLINE_DATA)" BITLINE_NETWORKS="$(BITLINE_NETWORKS)"'

clean:
	rm -rf $(VENV) .data .data.part out build src/*.egg-info $(FUSED)/_kernel*
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "bitline needs Python 3.11 or later: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/runtime.stamp: $(SOURCES) | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/dev.stamp: $(SOURCES) | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/runtime.stamp

.data:
	@test -d ../shared/data || { echo "no ../shared/data here: set BITLINE_DATA to your own data folder" >&2; exit 1; }
	$(MAKE) $(VENV)/dev.stamp
	rm -rf .data.part
	$(BIN)/python ../shared/data/unpack.py .data.part
	mv .data.part .data

.data/measured .data/adc .data/spice: | .data
	ln -sfn $(abspath ../shared/data/$(@F)) $@
