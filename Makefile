# Everything a newcomer runs. Each target sets up the environment it needs under .venv/ (scripts/setup.py);
# from the second time on that takes a moment and no network.
#
#   make test PYTHON=3.11 DJANGO=5.2 ARGS="-k lease"

# X.Y of the Python to use; empty: the newest that is found
PYTHON =
# X.Y of Django; empty: the newest that this Python gets
DJANGO =
# Passed on to pytest, the demo or the benchmarks
ARGS =

.DEFAULT_GOAL := help
.PHONY: help demo test check bench format clean

# $(call python-of,group): the Python of the environment with that group of requirements
setup = python3 scripts/setup.py $(if $(PYTHON),--python $(PYTHON)) $(if $(DJANGO),--django $(DJANGO))
python-of = $(or $(shell $(setup) $(1)),$(error there is no environment to run in, the reason is above))
# Replaced by its value at first use, so that a recipe of many lines asks once.
dev = $(eval dev := $(call python-of,dev))$(dev)

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1 \t/p' Makefile | expand -t 14

demo: ## 501 invitations, from the web form to a real SMTP server, with everything embedded
	"$(call python-of,demo)" demo/run.py $(ARGS)

test: ## the whole suite
	"$(dev)" -W error -m pytest $(ARGS)

check: ## lint, format, types, imports, system checks, missing migrations
	"$(dev)" -m ruff check
	"$(dev)" -m ruff format --check
	"$(dev)" -m mypy
	"$(dev:%/python=%/lint-imports)" --no-logo
	"$(dev)" -W error -m django check --fail-level WARNING --settings tests.settings
	"$(dev)" -W error -m django check --fail-level WARNING --settings demo.settings
	"$(dev)" -W error -m django makemigrations --check --dry-run --settings tests.settings

bench: ## the benchmarks; every figure stands beside a baseline of the same run
	"$(call python-of,bench)" -m benchmarks.run $(ARGS)

format: ## format the code, fix what ruff can fix
	"$(dev)" -m ruff check --fix
	"$(dev)" -m ruff format

clean: ## remove the environments, caches and builds
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
