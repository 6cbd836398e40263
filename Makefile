# The two commands are `make book` and `make test`; `make help` lists the rest.
PYTHON ?= python3
SETUPS ?= digits_resnet18
CORES ?= 2
PORT ?= 8000
VENV ?= .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# Kernels and tools answer for themselves, not for what the caller's shell has set up.
unexport PYTHONPATH VIRTUAL_ENV
INSTALLED := $(VENV)/installed
# What a caller says reaches a shell as a variable of its environment alone: never as text of a command.
override SETUPS := $(value SETUPS)
override CORES := $(value CORES)
override PORT := $(value PORT)
export SETUPS CORES PORT

.DEFAULT_GOAL := help
.PHONY: help install book pdf neurolibre record serve lint types test check soak claims claims-all lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv (or VENV) and install the pinned packages into it

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is not Python 3.11 to 3.13; say which one is: make PYTHON=python3.12"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --disable-pip-version-check -c requirements.lock -e '.[book,paper,peers,operon,timm,language,dev]'
	touch $@

book: $(INSTALLED) ## run SETUPS (default digits_resnet18) and build the book
	snakemake book --cores "$$CORES" --config setups="$$SETUPS"
	@echo "The book is built: open file://$$PWD/_build/html/index.html, or run make serve"

pdf: book ## print the whole book to _build/book.pdf (needs Chromium)
	python -m book.pdf
	@echo "The book is printed: open $$PWD/_build/book.pdf"

neurolibre: book ## lay the book out as a NeuroLibre submission in _build/neurolibre
	python -m book.neurolibre

record: $(INSTALLED) ## record the responses of SETUPS into data/responses; goes on where it stopped
	set -f; for setup in $$SETUPS; do \
		snakemake classifiers --cores "$$CORES" --config setups="$$setup" && \
			python -m kanlib.networks.recording "$$setup" || exit 1; \
	done

serve: $(INSTALLED) ## show the built book on http://localhost:PORT (default 8000)
	python -m http.server --bind localhost --directory _build/html "$$PORT"

lint: $(INSTALLED) ## ruff
	ruff check .
	ruff format --check .

types: $(INSTALLED) ## the type checker
	mypy

check: lint types ## ruff, types and the unit tests
	python -m pytest -q -n "$$CORES" -m "not slow and not soak"

test: lint types ## everything: unit tests with their line coverage, notebooks with small parameters, the book
	python -m pytest -q -n "$$CORES" -m "not slow and not soak" --cov
	python -m pytest -q -m "slow and not soak"

soak: $(INSTALLED) ## what takes longer than make test may
	python -m pytest -q -rP -m soak

claims: $(INSTALLED) ## measure the fast claims of data/claims.json anew; fail where one no longer holds
	python -m kanlib.claims fast

claims-all: $(INSTALLED) ## the long ones too
	python -m kanlib.claims fast long

lock: ## pin what pyproject.toml asks for, for every supported Python and platform (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --quiet --custom-compile-command "make lock" \
		--output-file requirements.lock

clean: ## remove what was built and computed, but not .venv
	rm -rf _build _artifacts .snakemake book/setups
