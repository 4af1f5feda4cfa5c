# Everything a newcomer runs. Each target sets up the environment it needs under .venv/ (scripts/setup.py);
# from the second time on that takes a moment and no network.
#
#   make test PYTHON=3.11 DJANGO=5.2 ARGS="-k lease"

# X.Y of the Python to use; empty: the newest that is found
PYTHON =
# X.Y of Django; empty: the newest that this Python gets
DJANGO =
# What carries the demo's messages: database or redis
LAYER = database
# Where the site of `make serve` listens
PORT ?= 8000
# Passed on to pytest, the demo, the benchmarks or the soak
ARGS =
# Processes of `make test`: one more than there are cores, at most four, as a quarter of the time of each is waiting
# (tests/conftest.py); with ARGS one, so that -x, -s and --pdb work as ever
JOBS = $(if $(strip $(ARGS)),0,logical)
# How long a soak takes
MINUTES = 5

# Tests start hundreds of processes, and each would compile all of ours.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help serve demo test quick screenshots check check-django messages docs bench soak format clean

# $(call python-of,group): the Python of the environment with that group of requirements
setup = python3 scripts/setup.py $(if $(PYTHON),--python $(PYTHON)) $(if $(DJANGO),--django $(DJANGO))
python-of = $(or $(shell $(setup) $(1)),$(error there is no environment to run in, the reason is above))
# Replaced by its value at first use, so that a recipe of many lines asks once.
dev = $(eval dev := $(call python-of,dev))$(dev)

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /make \1 \t/p' Makefile | expand -t 20

serve: ## the demo site on http://127.0.0.1:8000 (PORT=…), with a worker inside and an inbox for its mail
	"$(call python-of,demo)" demo/serve.py --port "$(PORT)" $(ARGS)

# What the demo needs, by its layer
demo-of-database = demo
demo-of-redis = demo redis valkey

demo: ## 501 invitations, from the web form to a real SMTP server, with everything embedded
	$(if $(demo-of-$(LAYER)),,$(error LAYER is "$(LAYER)"; it can be database or redis))
	"$(call python-of,$(demo-of-$(LAYER)))" demo/run.py --layer $(LAYER) $(ARGS)

test: ## the whole suite, about 8 minutes on two cores; as root it first installs Debian's Chromium, if there is no browser
	"$(dev)" -m scripts.catalogues --compile
	@[ "$$MAILRAIL_TEST_CHROMIUM" ] || scripts/ensure_package.sh chromium chromium chromium-browser google-chrome || true
	"$(dev)" -W error -m pytest $(spread) $(ARGS)

# Each file's tests on one process; those that take longest come first (tests/conftest.py).
spread = -n $(JOBS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

quick: JOBS = logical
quick: ## lint and two thirds of the tests, the cheap ones, for while you edit: about a minute
	"$(dev)" -m ruff check
	"$(dev)" -m scripts.catalogues --compile
	"$(dev)" -W error -m pytest --quick $(spread) $(ARGS)

screenshots: ## of every page of the invitations and the admin, and of the live page in each trouble, into build/screenshots
	MAILRAIL_SCREENSHOTS=build/screenshots "$(dev)" -W error -m pytest tests/pages/test_every_page.py tests/pages/test_admin_pages.py \
		tests/pages/test_troubles.py $(ARGS)

check: check-django ## lint, format, types, imports, system checks, missing migrations
	"$(dev)" -m ruff check
	"$(dev)" -m ruff format --check
	"$(dev)" -m mypy
	"$(dev:%/python=%/lint-imports)" --no-logo

check-django: ## the part of it that Django has: system checks, missing migrations
	"$(dev)" -W error -m django check --fail-level WARNING --settings tests.settings
	DEBUG=1 "$(dev)" -W error -m django check --fail-level WARNING --settings demo.settings
	"$(dev)" -W error -m django makemigrations --check --dry-run --settings tests.settings

messages: ## update the catalogues of translations, and list what they lack
	"$(dev)" -W error -m scripts.catalogues

# The first page shows the admin, and "Is it well?" the live page, where a browser and the environment of `make test` are there already.
picture = build/screenshots/emails-en-desk-light.png
with-browser = $(lastword $(wildcard .venv/*-dev/bin/python))

docs: ## the documentation as HTML, in build/docs; a warning is an error
	@[ -f $(picture) ] || [ ! -x "$(with-browser)" ] || MAILRAIL_SCREENSHOTS=build/screenshots "$(with-browser)" -W error \
		-m pytest -q tests/pages/test_admin_pages.py tests/pages/test_troubles.py \
		-k "(test_a_page_reads_well and en-emails) or test_each_trouble" || true
	@[ -f $(picture) ] || echo "docs: no screenshots on the first page and in \"Is it well?\"; they take Chromium and what make test sets up"
	"$(call python-of,docs)" -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --fresh-env \
		--quiet docs build/docs $(ARGS)

bench: ## the benchmarks; every figure stands beside a baseline of the same run
	"$(call python-of,bench)" -m benchmarks.run $(ARGS)

soak: ## MINUTES (5) of sending, working and random faults on PostgreSQL, every promise checked all the time; ten kills in mid-drain of 5,000 emails, and 1,000 emails that are cancelled as they leave; on each layer rounds of killed steps and batches of tasks, history of 100,000 messages, and 1,000 ticks of the schedule
	MAILRAIL_FAULT_BATCHES=25 "$(dev)" -W error -m pytest -q -n 0 tests/faults/test_tasks.py -k then_is_enqueued_once --timeout 1200
	"$(dev)" -W error -m tests.soak --minutes $(MINUTES) $(ARGS)
	MAILRAIL_FAULT_EMAILS=5000 MAILRAIL_FAULT_MAIL_ROUNDS=10 MAILRAIL_RACE_ROUNDS=1000 "$(dev)" -W error -m pytest -q -n 0 -s \
		tests/faults/test_mail.py tests/mail/test_outcome_store.py -k "kill_9 or person_who_cancels" --timeout 1200
	MAILRAIL_TEST_STEP_ROUNDS=20 "$(dev)" -W error -m pytest -q tests/faults/test_tasks.py -k "a_step_and_its_record"
	MAILRAIL_TEST_HISTORY_MESSAGES=100000 "$(dev)" -W error -m pytest -q tests/faults/test_history.py --timeout 3600
	MAILRAIL_TEST_ROUNDS=100 "$(dev)" -W error -m pytest -q tests/faults/test_schedule.py -k killed_at_random --timeout 1200

format: ## format the code, fix what ruff can fix
	"$(dev)" -m ruff check --fix
	"$(dev)" -m ruff format

clean: ## remove the environments, caches and builds
	find src demo -name '*.mo' -delete
	rm -rf .venv .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
	find . -name __pycache__ -prune -exec rm -rf {} +
