# The two commands of the README: `make run` and `make test`. Everything happens in .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: run test lint check gate repro changes server worker stop format lock clean

run: $(VENV)/ready ## the default study, end to end
	dvc repro
	@echo "report: $(CURDIR)/results/report.html"

test: $(VENV)/ready ## all tests
	python -m pytest -n 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/ready ## lint, formatting, types
	ruff check .
	ruff format --check .
	pyright

check: lint ## lint, formatting, types, studies, tests
	python -m pipelines check
	$(MAKE) test

gate: $(VENV)/ready ## in seconds: studies valid, params.yaml up to date, dvc.lock belongs to this code and these results
	python -m pipelines check
	python -m flows check --fast

repro: $(VENV)/ready ## everything again in a clean clone of the last commit, against the committed dvc.lock
	python -m flows check $(CHECK)

changes: $(VENV)/ready ## what this branch changes in the results, as Markdown: make changes BASE=origin/main
	@python -m flows.drift.changes $(BASE)

server: $(VENV)/ready ## Prefect and MLflow in the background, on 127.0.0.1
	python -m flows server

worker: $(VENV)/ready ## run in this clone what Prefect's server has for it, until interrupted
	python -m flows worker

stop: $(VENV)/ready ## end what `make server` started
	python -m flows stop

format: $(VENV)/ready
	ruff check --fix .
	ruff format .

# The environment, from the full lock. `ready` is written last, so an interrupted installation is not taken for whole.
$(VENV)/ready: requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than Python 3.11; name another with make PYTHON=..."; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# Resolve pyproject.toml anew and write the lock. "+cpu" and the like are builds of one release; the lock names the release.
lock:
	$(PYTHON) -m venv --clear $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(if $(TORCH),torch==$(TORCH)) ".[pipeline,s3,dev]"
	{ echo "# The full environment, written by make lock; make run and make test install exactly this."; \
	  $(VENV)/bin/python -m pip freeze --exclude secateur | sed -E 's/\+[a-z0-9.]+$$//'; } > requirements.lock

clean:
	rm -rf $(VENV) artifacts/unfinished .pytest_cache .ruff_cache
