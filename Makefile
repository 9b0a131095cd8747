# Everything a person types. Each target that runs something makes .venv first; see packaging/setup.sh.

BIN := .venv/bin
TESTS ?= tests
SECONDS ?= 60
COMPILED_TESTS ?= tests/core tests/detectors tests/resolver tests/test_end_to_end.py
COMPILE := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup setup-test run test test-compiled check fmt format-check lint types imports bench soak compare eval lab fuzz lock clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv and say which system packages are missing (as root: install them)
	@packaging/setup.sh

setup-test:
	@packaging/setup.sh test

run: setup ## run the resolver on 127.0.0.1:5353 and [::1]:5353 until Ctrl-C
	@exec $(BIN)/plughole serve -c config.toml

test: setup-test ## run all tests (TESTS=tests/core: some)
	@$(BIN)/python -m pytest $(TESTS)

test-compiled: setup-test ## run the tests of the hot modules on a compiled copy (needs cc and Python's headers)
	@command -v cc >/dev/null || { echo "skipped: tests on a compiled copy, for want of a C compiler (cc)"; exit 0; }; \
	rm -rf build/compiled && mkdir -p build/compiled && \
	git ls-files -co --exclude-standard | tar -cf - -T - 2>/dev/null | tar -xf - -C build/compiled && \
	cd build/compiled && PLUGHOLE_COMPILE=1 ../../$(BIN)/python setup.py --quiet build_ext --inplace >/dev/null && \
	../../$(BIN)/python -m pytest $(COMPILED_TESTS)

check: format-check lint types imports test-compiled test ## all that CI runs

fmt: setup ## format the code and fix what can be fixed
	@$(BIN)/ruff format --quiet
	@$(BIN)/ruff check --quiet --fix

format-check: setup-test
	@$(BIN)/ruff format --quiet --check

lint: setup ## look for mistakes and bad habits
	@$(BIN)/ruff check --quiet

types: setup ## check the types
	@$(BIN)/mypy --no-error-summary

imports: setup ## check that imports run one way
	@$(BIN)/lint-imports --no-logo

bench: setup ## compare with other resolvers; docs say which packages it wants
	@$(BIN)/python -m benchmarks.bench

soak: setup ## a million malformed packets, 100,000 connections, 5,000 idle ones: is anything left of them?
	@$(BIN)/python -m benchmarks.soak

compare: setup-test ## compare the answers to 2,000 names with Unbound's and PowerDNS Recursor's
	@COMPARE_NAMES=2000 $(BIN)/python -m pytest tests/protocol/test_same_answers.py

eval: setup ## measure the detectors on real data (DATA=folder); fails under the thresholds
	@$(BIN)/python -m benchmarks.evaluation $(DATA)

lab: setup-test ## real tunnels through a small internet of namespaces (root; nsd, iodine, dns2tcp, tcpdump)
	@$(BIN)/python -m pytest -s tests/lab

fuzz: setup-test ## throw hostile bytes at every parser, SECONDS=60 each (TARGETS="reply tcp": some)
	@PYTHONPATH=tests $(BIN)/python -m fuzz.campaign --seconds $(SECONDS) $(TARGETS)

lock: ## renew requirements.txt and requirements-dev.txt from pyproject.toml (needs uv)
	$(COMPILE) --output-file requirements.txt
	$(COMPILE) --extra embedded --group dev --output-file requirements-dev.txt

clean: ## remove .venv, caches and what was built; var/ stays
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache htmlcov .coverage*
