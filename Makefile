# The two commands are `make book` and `make test`; `make help` lists the rest.
PYTHON ?= python3
SETUPS ?= digits_resnet18
CORES ?= 2
PORT ?= 8000
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Kernels and tools answer for themselves, not for what the caller's shell has set up.
unexport PYTHONPATH VIRTUAL_ENV
INSTALLED := .venv/installed
# A run that was interrupted is taken up again.
SNAKEMAKE = snakemake book --rerun-incomplete --cores $(CORES) --quiet host reason rules --config setups="$(SETUPS)"

.DEFAULT_GOAL := help
.PHONY: help install book pdf record serve test check soak claims claims-all lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make .venv and install the pinned packages into it

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "$(PYTHON) is not Python 3.11 to 3.13; say which one is: make PYTHON=python3.12"; exit 1; }
	test -x .venv/bin/python || $(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -c requirements.lock -e '.[book,paper,operon,timm,dev]'
	touch $@

book: $(INSTALLED) ## run SETUPS (default digits_resnet18) and build the book
	$(SNAKEMAKE)
	@echo "The book is built: open file://$(CURDIR)/_build/html/index.html, or run make serve"

pdf: book ## print the whole book to _build/book.pdf (needs Chromium)
	python -m book.pdf
	@echo "The book is printed: open $(CURDIR)/_build/book.pdf"

record: $(INSTALLED) ## record the responses of SETUPS into data/responses; goes on where it stopped
	for setup in $(SETUPS); do \
		snakemake _artifacts/$$setup/model.safetensors --rerun-incomplete --cores $(CORES) --quiet host reason rules \
			--config setups=$$setup && python -m kanlib.recording $$setup || exit 1; \
	done

serve: $(INSTALLED) ## show the built book on http://localhost:PORT (default 8000)
	python -m http.server --bind localhost --directory _build/html $(PORT)

check: $(INSTALLED) ## ruff and the unit tests
	ruff check .
	ruff format --check .
	python -m pytest -q -m "not slow and not soak"

test: $(INSTALLED) ## everything: unit tests, notebooks with small parameters, the book
	ruff check .
	ruff format --check .
	python -m pytest -q -m "not soak"

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
