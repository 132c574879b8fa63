# make book   runs every chapter and builds the site        make test   checks everything
# Needed beforehand: Python 3.11 or newer and make; all else goes into .venv. `make help` lists the rest.

PYTHON ?= python3
UV ?= uv# used if it is there; `make UV=` installs by pip
JOBS ?= 2# chapters and tests that run at the same time
PORT ?= 8000
BENCH ?=# options of `make bench`, e.g. BENCH='--only prior-chain'

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed
SITE := $(BIN)/python book/tools/make_site.py
PAGES := _build/html

# One thread for each process: several chapters at once are faster so than one with many threads.
# Where a program asks for more, they sleep while they wait for each other, and do not spin.
export OMP_NUM_THREADS ?= 1
export OMP_WAIT_POLICY ?= PASSIVE

# The lowest versions that requirements.txt allows; on a newer Python, the lowest with a wheel for it.
FLOORS := _build/floors

.PHONY: help book serve test test-data test-all floors lint unit smoke chapters strict-site pages bench clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 18

book: chapters ## run the chapters (those that changed) and build the site
	$(SITE) build
	@echo "The book: $(CURDIR)/$(PAGES)/index.html   (or: make serve)"

serve: ## show the built site on http://127.0.0.1:8000 (PORT=... for another port)
	@test -f $(PAGES)/index.html || { echo "There is no site yet: say 'make book' first."; exit 2; }
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory $(PAGES) $(PORT)

# The steps of a test run one after the other, cheapest first; the first that fails ends it.
test: lint unit smoke strict-site pages ## lint, unit tests, every chapter, the site, its pages in a browser
	@echo "All checks passed."

# After `make test`, on a machine that has data: the chapters that show them, and their pages.
test-data: ## what MNIST changes: load mode with JLEBM_DATA, the site, the pages of the explorer
	@test -n "$$JLEBM_DATA" || { echo "Say where the data lie: make test-data JLEBM_DATA=..."; exit 2; }
	$(MAKE) strict-site
	$(BIN)/python book/tools/check_pages.py
	$(BIN)/python -m pytest -q -rfs -n $(JOBS) -m "pages and not slow" tests/test_explorer_pages.py

test-all: test ## the same and the slow tests
	$(BIN)/python -m pytest -q -n $(JOBS) -m slow

floors: ## the unit tests on the lowest versions allowed, in an environment of their own (needs uv)
	@[ -n "$(UV)" ] && $(UV) --version >/dev/null 2>&1 || { echo "make floors needs uv, which can \
	install the lowest versions: install uv, or say where it is (make floors UV=...)."; exit 2; }
	$(UV) venv --quiet --clear --python "$$(command -v $(PYTHON))" $(FLOORS)
	$(UV) pip install --quiet --python $(FLOORS)/bin/python --resolution lowest-direct \
	  --only-binary :all: --requirement requirements.txt
	$(UV) pip install --quiet --python $(FLOORS)/bin/python --no-deps --editable .
	$(FLOORS)/bin/python -m pytest -q -n $(JOBS)

lint: $(READY) ## ruff on modules and notebooks, the rules for notebooks
	$(BIN)/ruff check
	$(BIN)/python book/tools/check_notebooks.py

unit: $(READY) ## the unit tests
	$(BIN)/python -m pytest -q -n $(JOBS)

smoke: $(READY) ## every chapter in its quick mode, built-in data only, without network
	$(SITE) run --mode smoke --jobs $(JOBS)

chapters: $(READY)
	$(SITE) run --mode load --jobs $(JOBS)

strict-site: chapters
	$(SITE) build --strict

bench: $(READY) ## chains and training steps beside their peers, about 10 minutes; benchmarks/results.json
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(BIN)/python -m pip install --quiet --no-deps --requirement benchmarks/requirements.txt
	env -u OMP_NUM_THREADS -u OMP_WAIT_POLICY $(BIN)/python benchmarks/run.py $(BENCH)

pages: ## the built pages: links, alternative texts, and each page in headless Chromium
	$(BIN)/python book/tools/check_pages.py
	$(BIN)/python -m pytest -q -rfs -n $(JOBS) -m "pages and not slow"

$(READY): requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is \
	needed; $(PYTHON) is %d.%d. Try: make PYTHON=python3.12" % sys.version_info[:2])'
# Compiled once, as pip does of itself: else each chapter compiles PyTorch where nothing may be written.
	@if [ -n "$(UV)" ] && $(UV) --version >/dev/null 2>&1; then set -ex; \
	  $(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" $(VENV); \
	  $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[book]'; \
	else set -ex; \
	  $(PYTHON) -m venv $(VENV); \
	  $(BIN)/python -m pip install --quiet --editable '.[book]'; \
	fi
	@touch $@

clean: ## remove what was built and run; .venv, downloads and trained models stay
	rm -rf _build _run build *.egg-info .pytest_cache .ruff_cache
