# What a person or CI does often. `make` alone lists it.
#
# Everything is installed into $(VENV), from hashed requirements, and again only when those change.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# ONNX Runtime sends telemetry otherwise, from a thread of its own.
export ORT_DISABLE_TELEMETRY := 1
# As every server of ours has it (trillium/server/process.py); here for servers inside the tests.
export GRPC_ENABLE_FORK_SUPPORT := 0
# Tests start hundreds of processes; each would compile our packages anew.
export PYTHONDONTWRITEBYTECODE :=
# Should native code crash, the log says where.
export PYTHONFAULTHANDLER := 1

PYTHON ?= python3
PYTHONS ?= 3.12 3.13
VENV ?= .venv
MODELS ?= models
ENSEMBLE ?= iris
# Of the aggregator; the controller has the next one. Another port has a state folder of its own.
PORT = 50051
STATE = .trillium$(if $(filter-out 50051,$(PORT)),-$(PORT))
# Tests wait more than they compute: two workers for each core, and no more memory than 4 GB.
WORKERS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 4 ? 2 * cores : 8)))
# What bench-peers measures; nothing is all.
PEERS ?=
# More for pytest, for example: make test ARGS="-k drain -x", or ARGS="-n 0 -s" for one at a time.
ARGS ?=

PEER_ENVIRONMENTS := bentoml fastapi kserve litserve mlserver ray triton
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# Each worker begins with tests that stand together, and so share what is set up for them; who has
# no more takes from the others.
PARALLEL := --numprocesses $(WORKERS) --dist worksteal
INSTALL := $(BIN)/python scripts/install.py
INSTALLED_BY := pyproject.toml scripts/install.py requirements/uv.txt requirements/build.txt
TRAIN := $(BIN)/trillium models train --builtin $(ENSEMBLE) --output $(MODELS)
UP = $(BIN)/trillium up --models $(MODELS) --ensemble $(ENSEMBLE) --port $(PORT) \
    --controller-port $$(($(PORT) + 1)) --state $(STATE)
BASELINE := protos/baseline.binpb

##@ Use it

.PHONY: run
run: $(VENV)/.run ready-models ## Start the ensemble and stay up until Ctrl-C
	@exec $(UP) --make-target $@

.PHONY: demo
demo: $(VENV)/.run ready-models ## Start it, score a few flowers, print them, stop
	@exec $(UP) --make-target $@ --demo

.PHONY: models
models: $(VENV)/.run ## Train what is missing of ENSEMBLE=iris (or digits, wine)
	@$(TRAIN) --if-missing

# `make run` only looks: asking the trainer costs as long as importing scikit-learn.
.PHONY: ready-models
ready-models: $(VENV)/.run
	@compgen -G '$(MODELS)/$(ENSEMBLE)-*.onnx' >/dev/null || $(TRAIN) --if-missing

##@ Work on it

.PHONY: install
install: $(VENV)/.dev ## Install everything that the targets below need
	@echo "$(VENV) is ready"

.PHONY: format
format: $(VENV)/.dev ## Format the code and repair what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: protos
protos: $(VENV)/.dev ## Generate the Python stubs of protos/
	@$(BIN)/python scripts/generate_protos.py

.PHONY: proto-baseline
proto-baseline: $(VENV)/.dev ## At a release: what later protos must stay compatible with
	@$(BIN)/buf build protos --output $(BASELINE)

.PHONY: hooks
hooks: $(VENV)/.dev ## Have git run the quick checks of what a commit changes
	@$(BIN)/pre-commit install

.PHONY: requirements
requirements: | $(VENV)/pyvenv.cfg ## Pin requirements/*.txt anew (ALL=1: everything to its newest)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --requirement requirements/uv.txt
	@$(call pin,pyproject.toml --group build --extra dev,dev)
	@$(call pin,--constraint requirements/dev.txt --group uv,uv)
	@$(call pin,--constraint requirements/dev.txt --group build,build)
	@$(call pin,--constraint requirements/dev.txt pyproject.toml --extra predictor,serving)
	@$(call pin,--constraint requirements/dev.txt pyproject.toml --extra cli --extra controller \
	    --extra gateway,run)
	@$(call pin,--constraint requirements/dev.txt pyproject.toml --extra cli --extra train,train)
	@for peer in $(PEER_ENVIRONMENTS); do $(call pin,--group peer-$$peer,peers/$$peer) || exit 1; done

.PHONY: notebook
notebook: $(VENV)/.dev ## Run notebooks/iris.ipynb from top to bottom, and keep what it shows
	@$(BIN)/python scripts/run_notebook.py notebooks/iris.ipynb

.PHONY: docs
docs: $(VENV)/.dev ## Build the documentation as a website, and check every link inside it
	@$(BIN)/python scripts/docs/build.py

##@ Check it

.PHONY: check
check: lint types layers proto-check test ## All that CI checks on one Python without an engine

.PHONY: lint
lint: $(VENV)/.dev ## Is it formatted and free of lint?
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

.PHONY: types
types: $(VENV)/.dev ## mypy, strict
	@$(BIN)/mypy

.PHONY: layers
layers: $(VENV)/.dev ## Does every package import only what it may?
	@$(BIN)/lint-imports --no-logo

.PHONY: proto-check
proto-check: $(VENV)/.dev ## Are the protos clean and compatible, the stubs up to date?
	@$(BIN)/buf lint protos
	@$(BIN)/buf breaking protos --against $(BASELINE)
	@$(BIN)/python scripts/generate_protos.py --check

.PHONY: test
test: $(VENV)/.dev ## All tests that need no container engine, in the short form where there are two
	@$(PYTEST) -m "not engine and not thorough" $(PARALLEL) $(ARGS)
	@echo "left out: longer searches, loads and crash chains (make test-thorough)," \
	    "and what needs a container engine (make test-engine)"

# What is worth more the longer it runs, beside its short form in `test`.
.PHONY: test-thorough
test-thorough: $(VENV)/.dev ## The longer form of searches, fuzzing, loads and crash chains
	@$(PYTEST) -m thorough $(PARALLEL) $(ARGS)

# Measuring slows down every process that the tests start, and there are hundreds.
.PHONY: coverage
coverage: $(VENV)/.dev ## The same, and which lines they never reach
	@$(MAKE) test ARGS='--cov --cov-report=term $(ARGS)'

.PHONY: test-engine
test-engine: $(VENV)/.dev engine-image ## The tests that need a container engine (or root, to start one)
	@DOCKER_HOST="$$(scripts/engine/start_engine.sh)" $(PYTEST) -m engine $(ARGS)

.PHONY: test-all
test-all: test test-thorough test-engine ## All tests

.PHONY: engine-image
engine-image: ## Make sure that there is a container engine, and build the image on it
	@scripts/engine/build_image.sh >/dev/null

.PHONY: engine-stop
engine-stop: ## Stop the engine that test-all started, if it did
	@scripts/engine/stop_engine.sh

# Half of the time of `test` goes to these: a search over pure functions, and chains of crashes whose
# parts all have tests of their own. They are run on one Python.
ON_ONE_PYTHON := tests/controller/test_model.py $(wildcard tests/acceptance/test_controller_*.py)

.PHONY: test-pythons
test-pythons: $(PYTHONS:%=test-python-%) ## Most tests of `test`, and the demo, on other Pythons

.PHONY: test-plain
test-plain: $(VENV)/.dev ready-models
	@$(PYTEST) -m "not engine and not thorough and not packaging" $(ON_ONE_PYTHON:%=--ignore=%) \
	    $(PARALLEL) $(ARGS)
	@$(UP) --demo

# An interpreter counts only if it runs: a version manager's shim may stand for one that is not on.
test-python-%:
	@candidates="$$(command -v python$* || true)"; \
	if command -v pyenv >/dev/null; then \
	    candidates="$$candidates $$(compgen -G "$$(pyenv root)/versions/$*.*/bin/python" || true)"; \
	fi; \
	for python in $$candidates; do \
	    if "$$python" -c "$(call at_least,$*)" 2>/dev/null; then \
	        echo "Python $*: $$("$$python" -V)"; \
	        exec $(MAKE) VENV=.venv-$* PYTHON="$$python" test-plain; \
	    fi; \
	done; \
	echo "No Python $* was found on PATH or in pyenv: install it, or name those that you have:" \
	    'make test-pythons PYTHONS="3.13"' >&2; \
	exit 1

##@ Measure it

.PHONY: bench
bench: $(VENV)/.dev ready-models ## Trillium, a naive aggregator and a bare echo, side by side
	@$(BIN)/python -m bench --models $(MODELS) $(ARGS)

.PHONY: bench-peers
bench-peers: $(VENV)/.dev ready-models ## The same beside other servers, each installed by itself
	@$(BIN)/python -m bench --models $(MODELS) --output bench/results/peers \
	    --peers $(PEERS) --loads c1 c16 c64 --starts 0 $(ARGS)

.PHONY: bench-micro
bench-micro: $(VENV)/.dev ready-models ## What one call costs in each piece of code on its way
	@$(PYTEST) bench/micro --benchmark-columns min,median,rounds \
	    --benchmark-storage bench/results/micro --benchmark-autosave $(ARGS)

.PHONY: bench-profile
bench-profile: $(VENV)/.dev ready-models ## Flame graphs of the aggregator and a predictor under load
	@$(BIN)/python -m bench.profile --models $(MODELS) $(ARGS)

.PHONY: bench-control
bench-control: $(VENV)/.dev ## What a controller's work costs as deployments and history grow
	@$(BIN)/python -m bench.control $(ARGS)

.PHONY: bench-linear
bench-linear: $(VENV)/.dev ## What a call costs as rows, classes and replicas grow
	@$(BIN)/python -m bench.linear $(ARGS)

##@ Other

.PHONY: clean
clean: ## Remove environments, caches and reports (models stay)
	@rm -rf .venv .venv-* build dist .coverage .coverage.* coverage.xml htmlcov \
	    .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help: ## Show this list
	@if [ -t 1 ]; then bold=$$'\033[1m' cyan=$$'\033[36m' off=$$'\033[0m'; fi; \
	awk -v bold="$$bold" -v cyan="$$cyan" -v off="$$off" 'BEGIN { FS = ":.*## " } \
	    /^##@ / { printf "\n%s%s%s\n", bold, substr($$0, 5), off } \
	    /^[a-z-]+:.*## / { printf "  %s%-16s%s%s\n", cyan, $$1, off, $$2 }' $(MAKEFILE_LIST)

# --- The environment ---

at_least = import sys; sys.exit(sys.version_info < tuple(map(int, '$(1)'.split('.'))))

# Only what the package index answers goes into the files: no setting of this machine.
define pin
echo "pinning requirements/$(2).txt"; \
env -u UV_EXTRA_INDEX_URL -u UV_FIND_LINKS -u UV_INDEX $(BIN)/uv pip compile --quiet --no-config \
    --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
    --custom-compile-command 'make requirements' $(if $(ALL),--upgrade) \
    --output-file requirements/$(2).txt $(1)
endef

$(VENV)/pyvenv.cfg:
	@"$(PYTHON)" -c '' 2>/dev/null || { \
	    echo "There is no working $(PYTHON) here: install Python 3.11 or newer, or name one:" \
	        "make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c "$(call at_least,3.11)" || { \
	    echo "Trillium needs Python 3.11 or newer, and $(PYTHON) is $$("$(PYTHON)" -V 2>&1):" \
	        "name another one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "This Python cannot make virtual environments:" \
	        "on Debian and Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$("$(PYTHON)" -V) ..."
	@"$(PYTHON)" -m venv $(VENV) & \
	    while kill -0 $$! 2>/dev/null; do printf .; sleep 1; done; echo; wait $$!

$(VENV)/.run: $(INSTALLED_BY) requirements/run.txt requirements/train.txt | $(VENV)/pyvenv.cfg
	@echo "Installing into $(VENV) what running needs (once) ..."
	@$(INSTALL) run train
	@touch $@

# dev.txt holds every pin of the others, so what this installs is ready to run, too.
$(VENV)/.dev: $(INSTALLED_BY) requirements/dev.txt | $(VENV)/pyvenv.cfg
	@echo "Installing into $(VENV) what development needs (once) ..."
	@$(INSTALL) dev
	@touch $(VENV)/.run $@
