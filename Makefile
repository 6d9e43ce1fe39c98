# Everything a reader does with the project. `make help` lists it.
PROFILE ?= laptop
ONLY ?=
PARAMS ?=
# 1: fetch without asking
YES ?=
PYTHON ?= python3
PORT ?= 8000
# 1: take torch from the system (a GPU node's own build), not from the lock
SYSTEM_TORCH ?=
# a folder of wheels (`make wheelhouse`) to install from, with no internet
WHEELHOUSE ?=
LOCKFILE ?= requirements.lock

# glibc keeps what is freed for the next tensor: by default it maps fresh pages
# for each large one, which costs the language model's step about a fifth.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647

VENV := .venv
BIN := $(VENV)/bin
# Named by content, so that touching a file installs nothing again.
LOCK := $(shell cat $(LOCKFILE) pyproject.toml | git hash-object --stdin)
READY := $(VENV)/.ready-$(LOCK)
# The benchmark's peers have a place of their own that sees .venv's packages:
# what they ask for would bring another torch.
PEERS := .venv-bench
PEERS_LOCK := $(shell git hash-object requirements-bench.lock 2>/dev/null)
PEERS_READY := $(PEERS)/.ready-$(LOCK)-$(PEERS_LOCK)
RUN := $(BIN)/python -m helpers.execute
WHEELS := $(PYTHON) cluster/wheelhouse.py
# With a wheelhouse, pip reads no settings either: they may name an index.
PIP := $(if $(WHEELHOUSE),PIP_CONFIG_FILE=/dev/null $(BIN)/pip --isolated,$(BIN)/pip)
FROM := $(if $(WHEELHOUSE),--no-index --find-links "$(WHEELHOUSE)")

define CHECK
@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "Python %d.%d was found, 3.11 to 3.13 is needed; name one with PYTHON=python3.12" % v)'
@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
  { echo "this Python cannot make virtual environments; install its venv package (python3-venv) or name another with PYTHON="; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help setup wheelhouse fetch execute publish book serve test lint bench bench-full clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | \
	  awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  settings: PROFILE=laptop ONLY=05 PARAMS=\"name=value ...\" PORT=8000 PYTHON=python3.12 SYSTEM_TORCH=1 WHEELHOUSE=wheelhouse YES=1"

setup: $(READY) ## make .venv from requirements.lock (every target does)

$(READY):
	$(CHECK)
	@$(if $(WHEELHOUSE),$(WHEELS) check $(LOCKFILE) "$(WHEELHOUSE)" $(if $(SYSTEM_TORCH),--system-torch))
	@echo "installing into $(VENV) (once; a few minutes)"
	@$(PYTHON) -m venv $(if $(SYSTEM_TORCH),--system-site-packages) $(VENV)
	@grep -v $(if $(SYSTEM_TORCH),'^torch==','^#') $(LOCKFILE) > $(VENV)/lock.txt
	@$(PIP) install --quiet --disable-pip-version-check $(FROM) -r $(VENV)/lock.txt
	@$(PIP) install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(FROM) -e .
	@rm -f $(VENV)/.ready-* && touch $@

wheelhouse: ## download all that setup installs, for nodes with no internet
	$(CHECK)
	@$(WHEELS) make $(LOCKFILE) "$(or $(WHEELHOUSE),wheelhouse)" $(if $(SYSTEM_TORCH),--system-torch)

fetch: $(READY) ## download the models and SAEs of PROFILE (YES=1: do not ask)
	@$(BIN)/python -m helpers.fetch --profile "$(PROFILE)" $(if $(YES),--yes)

execute: $(READY) ## run every chapter of PROFILE, build its book, compare
	@$(RUN) run --profile "$(PROFILE)" --only "$(ONLY)" --params "$(PARAMS)"

publish: $(READY) ## copy a finished run of PROFILE into book/
	@$(RUN) publish --profile "$(PROFILE)"

book: $(READY) ## build the published book into _build/html
	@$(RUN) book

serve: $(READY) ## build the published book, show it on 127.0.0.1:PORT
	@$(RUN) book
	@$(BIN)/python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

test: $(READY) ## all tests: units, chapters, book, browser
	@$(BIN)/python -m pytest

lint: $(READY) ## style of code and notebooks
	@$(BIN)/ruff check helpers tests notebooks cluster

bench: $(PEERS_READY) ## our loop and its peers: speed, memory, quality
	@$(PEERS)/bin/python -m tests.bench --profile "$(PROFILE)"

bench-full: $(PEERS_READY) ## the same with more rounds, seeds, tokens (hours)
	@$(PEERS)/bin/python -m tests.bench --full --profile "$(PROFILE)"

$(PEERS_READY): $(READY)
	@echo "installing the benchmark's peers into $(PEERS) (once)"
	@$(BIN)/python -m venv $(if $(SYSTEM_TORCH),--system-site-packages) $(PEERS)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > \
	  $$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/book.pth
	@$(PEERS)/bin/pip install --quiet --disable-pip-version-check --no-deps -r requirements-bench.lock
	@rm -f $(PEERS)/.ready-* && touch $@

clean: ## remove what was built and run; the published book stays
	rm -rf _build artifacts
