# Everything here starts from git, make and Python 3.11 or newer; scripts/setup.sh does the rest.
# PYTHON=/path/to/python chooses the interpreter.

SHELL := /bin/sh
VENV  := $(if $(SCFM_VENV),$(SCFM_VENV),.venv)
OUT   ?= scfm-lab-report.html
export PYTHON
# Where it is set, every process compiles PyTorch, scanpy and MLflow anew: seconds of processor time each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo lab test test-thorough setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the main job on bundled cells, and one HTML report ($(OUT))"
	@echo "make lab     JupyterLab on the first tutorial"
	@echo "make test    every check that runs on every change"
	@echo "make test-thorough    what is too long for that: before a release"
	@echo "make setup   only the virtual environment, with all that the checks need"
	@echo "make clean   removes the virtual environment and what the checks left"

demo:
	@sh scripts/setup.sh base
	@"$(VENV)/bin/scfm-lab" demo --out "$(OUT)"

lab:
	@sh scripts/setup.sh lab
	@"$(VENV)/bin/scfm-lab" lab

test:
	@sh scripts/setup.sh all
	@SCFM_VENV="$(VENV)" sh scripts/checks.sh

test-thorough:
	@sh scripts/setup.sh all
	@"$(VENV)/bin/pytest" -m thorough

setup:
	@sh scripts/setup.sh all

clean:
	rm -rf "$(VENV)" .pytest_cache .mypy_cache .ruff_cache .import_linter_cache test-output
