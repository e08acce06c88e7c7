# Everything starts from a plain python3 (3.11 or newer). `make help` lists the verbs.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
DEMO ?= flask
DATA_DIR ?= data
TESTS ?= tests
# Those of one file share servers and stay together, in the order of tests/conftest.py. Beside what compares times
# (the marker `alone`) nothing runs.
AT_ONCE := --numprocesses 3 --dist loadfile --no-loadscope-reorder -m "not alone"
WEB_SOURCES := $(wildcard web/assets/* web/*.mjs web/*.json web/build_assets.py)
BENCH_PYTHONS ?= 3.11 3.13
DEBIAN_PACKAGES := chromium fonts-wqy-microhei iproute2 libcurl4 libssl3 openssl $(if $(shell command -v npm),,nodejs npm)

.DEFAULT_GOAL := help
.PHONY: help setup check format test test-interpreters test-lowest proof run bench collector clients lock debian-packages clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(BIN)/.dev-installed ## make .venv with everything for development and tests

run: $(BIN)/.run-installed ## start the platform with a demo shop under load (DEMO=flask|django|fastapi|none)
	@$(BIN)/python -m all_in_one --data $(DATA_DIR) --demo "$(DEMO)"

check: setup ## format, lint, import rules, types
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/lint-imports --no-logo
	$(BIN)/pyright

format: setup ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Hundreds of processes that start would compile every module again where the environment forbids to keep the results.
test: export PYTHONDONTWRITEBYTECODE :=
test: setup $(if $(CI),debian-packages check collector clients) ## run all tests (TESTS=path for some)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(if $(filter tests,$(TESTS)),$(AT_ONCE)) $(TESTS)
	$(if $(filter tests,$(TESTS)),$(BIN)/coverage run -m pytest -m alone $(TESTS))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report $(if $(filter tests,$(TESTS)),--fail-under=90,--fail-under=0)
	$(if $(CI),$(if $(filter tests,$(TESTS)),$(BIN)/python tests/interpreters.py --ends))

proof: setup ## run the long proofs (overload, fail-over, kills) at full scale, minutes each (TESTS=path for some)
	$(BIN)/python -m pytest --full-scale -m full_scale -s $(TESTS)

test-interpreters: setup ## run the tests of the application side on every other Python found
	$(BIN)/python tests/interpreters.py

test-lowest: setup ## run the tests of otel_pyinstrument with the oldest versions of OpenTelemetry and pyinstrument it allows
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python $(LOWEST)
	printf 'protobuf<7\n' | cat - <(grep -vE '$(UNPINNED)' requirements/dev.txt) > $(LOWEST)/others.txt
	$(BIN)/uv pip compile --quiet --resolution lowest-direct --python-version 3.11 --constraints $(LOWEST)/others.txt \
		--extra flask --extra fastapi --extra django pyproject.toml -o $(LOWEST)/lowest.txt
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python -r $(LOWEST)/lowest.txt -r $(LOWEST)/others.txt fastapi httpx2 \
		opentelemetry-instrumentation-{jinja2,requests,sqlite3,sqlalchemy}
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --no-deps --editable .
	$(LOWEST)/bin/python -m pytest $(if $(filter tests,$(TESTS)),tests/otel_pyinstrument --ignore=tests/otel_pyinstrument/chaos,$(TESTS))

LOWEST := $(VENV)/lowest
# What depends on a newer OpenTelemetry, or on the protobuf that belongs to it, follows.
UNPINNED := ^(opentelemetry|pyinstrument|wrapt|protobuf|fastapi|starlette|grpcio|googleapis|httpx2)

bench: setup $(BENCH_PYTHONS:%=.bench/%/.installed) ## run the benchmarks and print their tables (BENCH_PYTHONS="3.11 3.13")
	@for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done
	@echo "== benchmarks/overhead: CPU time as a ratio to OpenTelemetry alone, about 8 minutes for each Python"
	@echo "   $(BENCH_PYTHONS): every contender has turns in a process of its own; keep the machine idle meanwhile"
	@$(BIN)/python -m benchmarks.overhead --python $(BENCH_PYTHONS)

collector: ## build the standard OpenTelemetry Collector that the tests use (needs Go)
	@$(PYTHON) tests/collector/build.py

clients: ## install the other OTLP clients that the tests use: JavaScript's (needs npm), telemetrygen (needs Go)
	@$(PYTHON) tests/clients/install.py javascript
	@$(PYTHON) tests/clients/install.py telemetrygen

lock: setup ## resolve the newest versions again into requirements/
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_OPTIONS) --group embedded-mongodb --group dev pyproject.toml -o requirements/dev.txt
	$(BIN)/uv pip compile --quiet $(LOCK_OPTIONS) --constraints requirements/dev.txt --group embedded-mongodb pyproject.toml -o requirements/run.txt
	$(BIN)/uv pip compile --quiet $(LOCK_OPTIONS) --constraints requirements/dev.txt pyproject.toml -o requirements/image.txt
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK_FORMAT) --python-version 3.10 --extra flask --group sdk-tests pyproject.toml -o requirements/sdk-tests.txt

LOCK_FORMAT := --universal --no-header --no-annotate
LOCK_OPTIONS := $(LOCK_FORMAT) --python-version 3.11 --extra flask --extra server --group demo

debian-packages:
	@missing=$$(dpkg-query -W -f '$${db:Status-Abbrev} $${Package}\n' $(DEBIAN_PACKAGES) 2>/dev/null \
		| awk '$$1 == "ii" {print $$2}' | sort | comm -13 - <(printf '%s\n' $(DEBIAN_PACKAGES) | sort)); \
	if [ -n "$$missing" ]; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 $$missing >/dev/null; fi

clean: ## remove what the other verbs made, but not data/
	rm -rf $(VENV) .venv-*/ .bench web/static web/node_modules .coverage* .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/uv: requirements/bootstrap.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer with venv was found; install one, or name it: make PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "making $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/bootstrap.txt
	@touch $@

$(BIN)/.%-installed: requirements/%.txt pyproject.toml $(WEB_SOURCES) | $(BIN)/uv
	@echo "installing requirements/$*.txt"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python -r requirements/$*.txt
	@echo "installing this checkout (builds the web assets)"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

# The contenders of the benchmarks patch much, so they live apart from .venv; Splunk's distro replaces parts of
# OpenTelemetry, so it also lives apart from the others.
.PRECIOUS: .bench/%/.installed
.bench/%/.installed: requirements/dev.txt benchmarks/contenders.txt benchmarks/contenders-apart.txt | $(BIN)/uv
	@echo "installing the contenders of benchmarks/contenders*.txt for Python $* into .bench/"
	@for place in $* $*-splunk; do \
		PATH="$$PATH:$$(printf '%s:' ~/.pyenv/versions/$**/bin)" $(BIN)/uv venv --quiet --clear --python $* .bench/$$place || \
			{ echo "make: Python $* was not found; choose others: make bench BENCH_PYTHONS=\"3.11\"" >&2; exit 1; }; \
		$(BIN)/uv pip install --quiet --python .bench/$$place/bin/python -r requirements/dev.txt && \
		$(BIN)/uv pip install --quiet --python .bench/$$place/bin/python --no-deps --editable . || exit 1; \
	done
	@$(BIN)/uv pip install --quiet --python .bench/$*/bin/python -r benchmarks/contenders.txt || \
		echo "make: not all contenders could be installed; the tables name them as absent" >&2
	@$(BIN)/uv pip install --quiet --python .bench/$*-splunk/bin/python -r benchmarks/contenders-apart.txt || \
		echo "make: Splunk could not be installed; the tables name it as absent" >&2
	@touch $@

SHELL := /bin/bash
