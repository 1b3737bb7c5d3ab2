# Everything from a bare checkout: `make serve`, `make test`. Needs Python 3.11 or newer; uses uv where it is installed.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed
CLIENTS := tests/clients/node_modules/.package-lock.json
UV := $(shell command -v uv 2>/dev/null)
NPM := $(shell command -v npm 2>/dev/null)

.PHONY: help setup serve test clients soak check format bench bench-full profile lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## prepare the environment (.venv) with exactly the pinned versions

$(STAMP): pyproject.toml requirements/dev.txt requirements/data.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Headrace needs Python 3.11 or newer; this is %d.%d. Try: make PYTHON=python3.13" % v[:2])'
	@echo 'Preparing $(VENV) (the first time takes about half a minute) ...'
ifdef UV
	@uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
	@uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt
	@uv pip install --quiet --python $(BIN)/python --require-hashes --no-deps --no-build-isolation -r requirements/data.txt
	@uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
else
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps --no-build-isolation --use-pep517 -r requirements/data.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
endif
	@touch $(STAMP)

serve: $(STAMP)  ## start the service, with a PostgreSQL of its own unless HEADRACE_DSN names one
	@exec $(BIN)/headrace serve

# Each process has a PostgreSQL of its own. More than four would wait for each other, and for memory.
test: $(STAMP)  ## run all tests, in a process for each core
ifdef NPM
	@$(MAKE) --no-print-directory clients || echo 'npm cannot install the JavaScript clients; their tests will be skipped.'
endif
	$(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=worksteal $(ARGS)

clients: $(CLIENTS)  ## install the JavaScript clients that tests drive (needs npm); `make test` tries it too

$(CLIENTS): tests/clients/package-lock.json tests/clients/package.json
	@echo 'Adding JavaScript clients to tests/clients/node_modules ...'
	@npm ci --prefix tests/clients --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

soak: $(STAMP)  ## ten minutes of random faults under load (SOAK_SECONDS), and then every row is looked at
	$(BIN)/python -m pytest tests/faults -m soak $(ARGS)

check: $(STAMP)  ## lint, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## format the code and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# mypy reads bench/ too, and with it the libraries that only bench/ uses.
check: $(BENCH_STAMP)

$(BENCH_STAMP): $(STAMP) requirements/bench.txt
	@echo 'Adding what the benchmark needs to $(VENV) ...'
ifdef UV
	@uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/bench.txt
else
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
endif
	@touch $(BENCH_STAMP)

bench: $(BENCH_STAMP)  ## compare with other ways to insert, in under five minutes; results in bench/results/
	@$(BIN)/python -m bench $(ARGS)

bench-full: $(BENCH_STAMP)  ## the same with all scenarios and more rounds
	@$(BIN)/python -m bench --full $(ARGS)

profile: $(BENCH_STAMP)  ## a flame graph of the fast lane under load, in bench/results/
	@$(BIN)/python -m bench.flame $(ARGS)

lock:  ## choose the newest versions and pin them (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate --custom-compile-command 'make lock' pyproject.toml -o requirements/service.txt
	uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate --custom-compile-command 'make lock' pyproject.toml --extra embedded --extra http2 --extra traces --group dev -c requirements/service.txt -o requirements/dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate --custom-compile-command 'make lock' --group bench -c requirements/dev.txt -o requirements/bench.txt
	uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate --custom-compile-command 'make lock' --group build -c requirements/dev.txt -o requirements/build.txt
	uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-annotate --custom-compile-command 'make lock' --no-deps requirements/data.in -o requirements/data.txt
ifdef NPM
	npm install --prefix tests/clients --package-lock-only --save-exact --no-audit --no-fund --loglevel=error @supabase/postgrest-js@latest @supabase/supabase-js@latest
endif

clean:  ## remove the environment and the embedded database with all its data
	rm -rf $(VENV) tests/clients/node_modules .headrace .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
