# Every target sets up what it needs: a virtual environment in .venv, and others for tools that conflict with it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
GENERATE_VENV := .venv-generate
# The commit that the contract must stay compatible with: the latest release or, before the first one, the last commit.
BASE ?= $(shell git describe --tags --abbrev=0 2>/dev/null || echo HEAD)

RUNTIME := $(VENV)/.runtime-installed
DEV := $(VENV)/.dev-installed
GENERATE := $(GENERATE_VENV)/.installed
STUBS := client/python/palaver/v1

# The tests that use every dependency, except the one that needs mypy.
FLOOR_TESTS := --ignore tests/client/test_client_exports.py tests/client tests/engine tests/llm tests/skills \
	tests/transports tests/cli/test_cli_commands.py tests/test_settings.py tests/stores/test_sqlite.py \
	tests/stores/test_store_contract.py tests/stores/test_azure_identity.py tests/server/test_turns.py \
	tests/server/test_skills.py

CLIENTS := go typescript java rust

.DEFAULT_GOAL := help
.PHONY: help demo demo-skills run chat test go azurite deploy-tools deploy-check pictures faults attack soak compatibility clients conformance lint format generate reference check-generate bench check lock check-lock test-floors setup clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

demo-skills: $(RUNTIME) ## start a skill host and a server, and let the model call skills; needs no key
	@$(BIN)/python examples/skills_demo.py

demo: $(RUNTIME) ## start a server, create an assistant, ask two questions and stream the replies; needs no key
	@$(BIN)/python examples/demo.py

run: $(RUNTIME) ## run a server on 127.0.0.1:50051, with the offline model unless a key is set (ARGS="--help" for its flags)
	@$(BIN)/palaver-server --reflection $(if $(OPENAI_API_KEY)$(AZURE_OPENAI_ENDPOINT),,--offline-model) $(ARGS)

chat: $(RUNTIME) ## chat in the terminal with the server that `make run` started
	@$(BIN)/palaver chat $(ARGS)

test: $(DEV) azurite go ## run the tests (ARGS="-k name" for some of them)
	@$(BIN)/python -m pytest -n 3 --ignore tests/deploy $(ARGS)  # most tests wait for something other than a processor

go: $(DEV) ## install Go for the tests, if the machine has none
	@tools/install-go.sh $(BIN)

.PHONY: toolchains
toolchains: go azurite

azurite: $(DEV) ## install Azurite, the emulator of Azure Table Storage, for the tests, and Node.js if the machine has none
	@tools/install-azurite.sh $(BIN)

clients: $(addprefix client-,$(CLIENTS)) ## build, lint and test the clients whose toolchains are installed

conformance: $(DEV) azurite $(addprefix runner-,$(CLIENTS)) ## run every client through the conformance scenarios, and print the matrix (ARGS="--help")
	@$(BIN)/python -m tests.conformance $(ARGS)

client-%: toolchains
	@tools/client.sh $* lint test

runner-%: toolchains
	@tools/client.sh $* conformance-runner chat

deploy-tools: $(DEV) go ## install the programs that check deploy/
	@tools/install-deploy-tools.sh $(BIN)

deploy-check: deploy-tools azurite ## check the image, the Compose file, the chart, the unit, Envoy, the alerts and the dashboard in deploy/
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/deploy $(ARGS)

pictures: deploy-tools azurite ## play five faults in front of a server, and draw what its dashboard shows (docs/images)
	@$(BIN)/python -m pip install --quiet --group plots
	@$(BIN)/python -m tests.observability

faults: $(DEV) azurite ## kill servers, break stores and drop callers, and check that no turn is lost, duplicated or half stored (ARGS="--times 1")
	@$(BIN)/python -m tests.faults $(ARGS)

attack: $(DEV) ## attack servers as callers, endpoints, skill hosts and connections, and measure what another caller notices (ARGS="--times 0.03")
	@$(BIN)/python -m tests.attack $(ARGS)

soak: $(DEV) ## post many turns, cancel a third of them, and check that memory, tasks and sockets stay flat
	@$(BIN)/python -m tests.soak $(ARGS)

compatibility: $(DEV) .venv-litellm/.installed .venv-llama/bin/llama-server .venv-llama/bin/ollama ## hold conversations through third-party model servers
	@$(BIN)/python -m tests.compatibility litellm=.venv-litellm llama-cpp=.venv-llama llama-cpp-python=.venv-llama ollama=.venv-llama

lint: $(DEV) ## check formatting, lint, types, import rules and the contract
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against ".git#ref=$(BASE)"

format: $(DEV) ## format code and contract, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write

generate: $(GENERATE) toolchains ## regenerate the code of all languages and the pages of docs/reference
	@rm -f $(STUBS)/*_pb2*
	@tools/generate.sh $(GENERATE_VENV)/bin/python
	@for language in $(CLIENTS); do tools/client.sh $$language generate || exit; done
	@$(BIN)/python -m tools.reference

reference: $(DEV) ## regenerate only the pages of docs/reference
	@$(BIN)/python -m tools.reference

check-generate: $(GENERATE) toolchains ## fail if generated code or a generated page is stale
	@rm -rf build/generated && tools/generate.sh $(GENERATE_VENV)/bin/python build/generated
	@rm -rf build/committed && mkdir -p build/committed && cp $(STUBS)/*_pb2* build/committed/
	@diff -r build/generated/palaver/v1 build/committed && echo "The committed Python stubs match the contract."
	@for language in $(CLIENTS); do tools/client.sh $$language check-generate || exit; done
	@$(BIN)/python -m tools.reference --check

bench: $(DEV) azurite ## measure the cost of a streamed token, a turn and an open stream (ARGS="--help")
	@$(BIN)/python -m bench $(ARGS)

setup: $(DEV) $(GENERATE) ## install the development tools and the pre-commit checks
	@$(BIN)/pre-commit install

check: lint check-generate check-lock test ## run every check that a change must pass

lock: $(DEV) ## renew the locked dependencies in requirements, as far as pyproject.toml wants it (ARGS=--upgrade: all)
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/lock.sh requirements $(ARGS)

check-lock: $(DEV) ## fail if the locked dependencies do not satisfy pyproject.toml
	@rm -rf build/requirements && mkdir -p build && cp -r requirements build/requirements
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/lock.sh build/requirements
	@diff -r requirements build/requirements && echo "The locked dependencies satisfy pyproject.toml."

test-floors: .venv-floors/.installed azurite ## run a part of the tests with the lowest versions of the dependencies
	@.venv-floors/bin/python -m pytest -n 3 $(FLOOR_TESTS) $(ARGS)

clean: ## remove everything that the other targets create
	rm -rf .venv* tests/azurite/node_modules build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@for language in $(CLIENTS); do $(MAKE) --silent -C client/$$language clean; done
	@$(MAKE) --silent -C examples/todo_host_typescript clean

$(BIN)/python:
	@echo "Setting up $(VENV) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Palaver needs Python 3.10 or newer; set PYTHON=")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

$(RUNTIME): pyproject.toml | $(BIN)/python
	@echo "Installing Palaver ..."
	@$(BIN)/python -m pip install --quiet --editable ".[cli,server,skills]"
	@touch $@

$(DEV): pyproject.toml $(RUNTIME)
	@echo "Installing the development tools ..."
	@$(BIN)/python -m pip install --quiet --editable ".[otel]" --group dev
	@touch $@ $(RUNTIME)

.venv-%/.installed: requirements/compatibility-%.txt
	@echo "Installing $*, which may take a while ..."
	@$(PYTHON) -m venv .venv-$*
	@.venv-$*/bin/python -m pip install --quiet --requirement $<
	@touch $@

.venv-floors/.installed: requirements/floors.txt pyproject.toml
	@$(PYTHON) -m venv .venv-floors
	@.venv-floors/bin/python -m pip install --quiet --requirement requirements/floors.txt
	@.venv-floors/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

.venv-llama/bin/llama-server: .venv-llama/.installed
	@echo "Building llama.cpp's server, which takes a few minutes ..."
	@tools/build-llama-server.sh .venv-llama >/dev/null

.venv-llama/bin/ollama: .venv-llama/.installed | go
	@echo "Building Ollama, which takes several minutes ..."
	@PATH="$$PATH:$(CURDIR)/$(BIN)" tools/build-ollama.sh .venv-llama

$(GENERATE): requirements/generate.txt
	@$(PYTHON) -m venv $(GENERATE_VENV)
	@$(GENERATE_VENV)/bin/python -m pip install --quiet --requirement requirements/generate.txt
	@touch $@
