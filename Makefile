# The two commands of the README: `make run` and `make test`. Everything happens in .venv; nothing else is touched.

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# No telemetry from anything that runs here.
export DVC_NO_ANALYTICS := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.PHONY: run test check format lock clean

run: $(VENV)/ready ## the default study, end to end
	dvc repro
	@echo "report: $(CURDIR)/results/report.html"

test: $(VENV)/ready ## all tests
	python -m pytest -n 2

check: $(VENV)/ready ## lint, formatting, types, studies, tests
	ruff check .
	ruff format --check .
	pyright
	python -m pipelines check
	$(MAKE) test

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
