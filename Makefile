# Each target first makes what it needs: a virtual environment in .venv with the packages, once. Needs Python 3.11 or later.
#
#   make demo PYTHON=/path/to/python3.12      choose the interpreter
#   make test TORCH_INDEX=https://download.pytorch.org/whl/cpu      the small PyTorch (on Linux the default brings CUDA)
#   make test PYTEST_ARGS="-k gaussian -x"      pass arguments to pytest
#   make test WORKERS=      run the tests in one process

VENV ?= .venv
PYTHON ?=
PYTEST_ARGS ?= -q
# One worker a core: the tests mostly compile, on one core each. A file's tests stay together, and with them their fixtures,
# and the longest files come first, as tests/conftest.py orders them.
WORKERS ?= --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder
TORCH ?= torch==2.13.0
TORCHVISION ?= torchvision==0.29.2
TORCHATTACKS ?= torchattacks==3.5.1
TORCH_INDEX ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check
TORCH_PIP := $(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
METADATA := pyproject.toml setup.cfg

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test slow lint format bench clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.core ## Purify, attack and report on embedded photographs, into runs/demo
	@rm -rf runs/demo
	$(BIN)/jaxpurify evaluate --run runs/demo
	@echo "The report: $(CURDIR)/runs/demo/report.html"

test: $(VENV)/.test ## Run every test but the slow ones
	$(BIN)/python -m pytest -m "not slow" $(WORKERS) $(PYTEST_ARGS)

slow: $(VENV)/.test ## Run the slow tests, compiled as for users
	JAXPURIFY_XLA_DEFAULTS=1 $(BIN)/python -m pytest -m slow $(WORKERS) $(PYTEST_ARGS)

lint: $(VENV)/.test ## Check style (ruff) and types (mypy)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test ## Put the code into the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.test ## Run the benchmarks one after the other and print their tables
	@set -e; for file in benchmarks/*.py; do \
	    name="$$(basename "$$file" .py)"; \
	    case "$$name" in _*|timing) continue;; esac; \
	    echo "== $$name"; $(BIN)/python -m "benchmarks.$$name"; \
	done

clean: ## Remove the environment, caches and build products (runs/ is kept)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@python=''; \
	for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python); do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        python="$$candidate"; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "jaxpurify needs Python 3.11 or later and found none: install one, or name it with 'make PYTHON=/path/to/python3.12'." >&2; \
	    exit 1; \
	fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    echo "making $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV) || { \
	        echo "could not make a virtual environment with $$python: on Debian and Ubuntu, install python3-venv." >&2; \
	        exit 1; \
	    }; \
	fi
	@touch $@

$(VENV)/.core: $(VENV)/.created $(METADATA)
	@echo "installing jaxpurify and the packages it needs into $(VENV) (the first time takes a minute or two)"
	@$(PIP) --editable .
	@touch $@

# torchattacks pins a release of requests from 2020, and torchvision the very build of PyTorch, hence --no-deps for these
# two; what they import is in the `bench` extra.
$(VENV)/.test: $(VENV)/.core $(METADATA)
	@echo "installing what tests, checks and benchmarks need into $(VENV) (PyTorch is the largest)"
	@$(TORCH_PIP) "$(TORCH)"
	@$(TORCH_PIP) --no-deps "$(TORCHVISION)"
	@$(PIP) --no-deps "$(TORCHATTACKS)"
	@$(PIP) --editable ".[dev,bench]"
	@touch $@
