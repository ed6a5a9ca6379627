# `make test` checks everything, `make demo` shows it at work. Both set up .venv themselves.
# Needs Python 3.11 or newer (with venv); choose another one with  make PYTHON=python3.12 test

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install -qq --disable-pip-version-check
# Tests run in as many processes as there are cores for them, a file's tests in one: they share what its fixtures make.
WORKERS ?= 2
SPREAD := -n $(WORKERS) --dist loadfile
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Texts for the tests that measure quality; those tests skip where the folder is absent.
export EDGESKIP_DATA ?= $(abspath ../shared/data)

PAGE := edgeskip/bench/devices/web/page
NODE_BIN := tools/node/node_modules/.bin
# $(call with_node,TOOL …) runs a tool that tools/node/package.json pins, or says that it cannot.
define with_node
if command -v npm >/dev/null; then \
  [ $(NODE_BIN)/.installed -nt tools/node/package-lock.json ] \
    || { npm ci --prefix tools/node --ignore-scripts --no-audit --no-fund --silent && touch $(NODE_BIN)/.installed; } || exit 1; \
  echo "== $(firstword $(1))"; $(NODE_BIN)/$(1); \
else echo "$(firstword $(1)) skipped: it needs Node.js (npm)" >&2; fi
endef
SCHEMA := $(BIN)/check-jsonschema -qq --builtin-schema

.PHONY: help demo docs docs-serve test pytest test-slow compat lowest lint types install llamacpp clean

help:
	@echo "make demo       fetch, calibrate, plan, export and run SmolLM2-135M-Instruct; a comparison table at the end"
	@echo "make test       lint, types, and every test that is not slow"
	@echo "make pytest     those tests alone"
	@echo "make test-slow  the tests that take minutes"
	@echo "make compat     the tests that touch transformers, with transformers 4.57"
	@echo "make lowest     the base suite with the lowest versions that pyproject.toml allows"
	@echo "make docs       build the documentation site into build/site-docs; a broken link fails"
	@echo "make docs-serve show it on http://localhost:8000, rebuilt on every change"
	@echo "make install    only set up $(VENV)"
	@echo "make llamacpp   and llama-cpp-python in it; make demo then shows GGUF files too"
	@echo "make clean      remove everything made here, $(VENV) included"

install: $(VENV)/.installed

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "EdgeSkip needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "== environment: $(VENV)"
	@$(PYTHON) -m venv $(VENV) \
	  || { echo "$(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PIP) --upgrade 'pip>=24.1'  # older ones download a package whole to learn its metadata; fetch's tests count
	@touch $@

$(VENV)/.torch: $(VENV)/.created tools/install_torch.py
	@echo "== torch (a few minutes the first time)"
	@$(BIN)/python tools/install_torch.py
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	@echo "== edgeskip with its development tools"
	@$(PIP) -e '.[dev]'
	@touch $@

# Its flags are those for this compiler and processor; what fails its self-test is compiled again, or fails here.
$(VENV)/.llamacpp: $(VENV)/.installed tools/install_llamacpp.py runtime/engines/llamacpp/build.py
	@echo "== llama-cpp-python (compiles the first time: some minutes; pip keeps the wheel)"
	@$(BIN)/python tools/install_llamacpp.py -e '.[dev,llamacpp]'
	@touch $@

llamacpp: $(VENV)/.llamacpp

lint: $(VENV)/.installed
	@echo "== ruff"
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format --check -q .
	@echo "== imports"
	@$(BIN)/lint-imports --no-logo >/dev/null 2>&1 || $(BIN)/lint-imports
	@echo "== workflows, forms, citation"
	@$(SCHEMA) vendor.github-workflows $(wildcard .github/workflows/*.yml)
	@$(SCHEMA) vendor.github-issue-forms $(filter-out %/config.yml,$(wildcard .github/ISSUE_TEMPLATE/*.yml))
	@$(SCHEMA) vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	@$(SCHEMA) vendor.dependabot .github/dependabot.yml
	@$(SCHEMA) vendor.citation-file-format CITATION.cff
	@found=$$($(BIN)/zizmor -qq --offline .github) || { echo "$$found"; exit 1; }
	@$(call with_node,biome check --config-path=tools/node/page.biome.json $(PAGE) tools/node)
	@$(call with_node,tsc -p tools/node)

types: $(VENV)/.installed
	@echo "== mypy"
	@$(BIN)/python -m mypy -p edgeskip
	@$(call with_node,pyright --warnings)

test: lint types pytest

pytest: llamacpp
	@echo "== pytest"
	@$(PYTEST) $(SPREAD) -m "not slow"

test-slow: $(VENV)/.llamacpp
	@$(PYTEST) -m slow

# transformers 4.57 with what it needs, laid over the environment for one run: no second copy of torch.
build/transformers4/.installed: $(VENV)/.llamacpp
	@echo "== transformers 4.57"
	@rm -rf build/transformers4
	@mkdir -p build/transformers4
	@$(PIP) --target build/transformers4 'transformers>=4.57,<4.58'
	@touch $@

# What reads models with transformers, or hooks into them.
COMPAT_TESTS ?= tests/exporters tests/models tests/edgeskip/models tests/edgeskip/calibration tests/edgeskip/planning tests/edgeskip/training

compat: build/transformers4/.installed
	@echo "== pytest with transformers 4.57"
	@PYTHONPATH=$(abspath build/transformers4) $(BIN)/python -c 'import transformers as t; assert t.__version__ < "4.58", t'
	@PYTHONPATH=$(abspath build/transformers4) $(PYTEST) $(SPREAD) -m "not slow" $(COMPAT_TESTS)

# Every floor in pyproject.toml, direct dependencies of all extras together; torch is the one that the tests are for.
LOWEST := build/lowest/bin/python
$(LOWEST): pyproject.toml tools/install_torch.py $(VENV)/.installed
	@echo "== environment: build/lowest (compiles an old llama-cpp-python the first time: some minutes)"
	@rm -rf build/lowest
	@mkdir -p build
	@$(BIN)/uv venv -q --seed --python $(BIN)/python build/lowest
	@$(LOWEST) tools/install_torch.py
	@CMAKE_ARGS="$$($(BIN)/python -m edgeskip.runtime.engines.llamacpp.build)" \
	  $(BIN)/uv pip install -q --python $(LOWEST) --resolution lowest-direct -e '.[dev,llamacpp]'
	@touch $@

# The base suite: the runtime with both engines, the commands, profiles and artifacts, graphs as they are lowered.
LOWEST_TESTS ?= tests/models tests/runtime tests/exporters/onnx tests/edgeskip/artifacts/test_manifest.py \
  tests/edgeskip/artifacts/test_bad_artifacts.py tests/edgeskip/artifacts/test_artifact_files.py tests/edgeskip/cli \
  tests/edgeskip/planning/test_planner.py tests/edgeskip/profiles tests/edgeskip/core/test_plan.py tests/edgeskip/evaluation

lowest: $(LOWEST)
	@echo "== pytest with the lowest versions"
	@OMP_NUM_THREADS=1 $(LOWEST) -m pytest $(SPREAD) -m "not slow" $(LOWEST_TESTS)

demo: $(VENV)/.installed
	@$(BIN)/python tools/demo.py

# Strict: a broken link, a page that a page includes and that is not there, or a warning fails.
docs: $(VENV)/.installed
	@echo "== documentation"
	@$(BIN)/python tools/docs_pages.py
	@$(BIN)/python -m zensical build --strict --clean

docs-serve: $(VENV)/.installed
	@$(BIN)/python tools/docs_pages.py
	@$(BIN)/python -m zensical serve

clean:
	rm -rf $(VENV) build demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
