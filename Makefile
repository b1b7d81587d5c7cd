# Aliases for start.py, which does the work on every system: make lab, make test.
# Options go into ARGS, a corpus into DATA (make train DATA=my.txt, make bench-train DATA=my.txt), another Python into PYTHON: make test PYTHON=python3.13 ARGS="-k store"
ifeq ($(OS),Windows_NT)
PYTHON ?= python
else
PYTHON ?= $(shell command -v python3 || command -v python)
endif

.DEFAULT_GOAL := help
.PHONY: help setup lab test test-browser train bench bench-train labs site notebooks

help:
	@$(PYTHON) start.py --help

setup lab test test-browser bench labs site notebooks:
	@$(PYTHON) start.py $@ $(ARGS)

train:
	@$(PYTHON) start.py train $(if $(DATA),"$(DATA)") $(ARGS)

bench-train:
	@$(PYTHON) start.py bench-train $(if $(DATA),--data "$(DATA)") $(ARGS)
