# Everything here needs only Python 3.11 or newer, make, git and python3-venv.
# Tests that talk to NestJS also need Node and npm; without them they say so and skip.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
PEERS := tests/peers/nest

.PHONY: demo test lint check bench prove wheel clean

demo: $(VENV)/.demo
	$(RUN)/python -m examples.shop_demo

test: $(VENV)/.test
	$(RUN)/pytest -q -rs -n 2 --dist loadfile

# Formatting, lint and types, as CI holds them.
lint: $(VENV)/.dev
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/pyright --pythonpath $(RUN)/python

check: lint test

# Rates, times and memory beside peers, and a page of charts; Node and npm for the one beside NestJS.
bench: $(VENV)/.dev
	$(RUN)/python -m benchmarks

# The long campaigns: more examples for every property, the slow cases, many rounds, and
# 2,000 random trees beside Erlang/OTP (erlang-base), and every small change of the
# supervision code, which some test must notice.
prove: $(VENV)/.test
	HYPOTHESIS_PROFILE=prove $(RUN)/pytest -q -rs --timeout=1800
	$(RUN)/python -m tests.erlang.campaign --scenarios 2000
	$(RUN)/python -m tests.campaigns.jetstream
	$(RUN)/python -m tests.campaigns.redis_streams
	$(RUN)/python -m tests.campaigns.rabbitmq
	$(RUN)/python -m tests.campaigns.mqtt network
	$(RUN)/python -m tests.campaigns.kafka
	$(RUN)/python -m tests.campaigns.drain
	$(RUN)/python -m tests.campaigns.hostile_tcp
	-$(RUN)/python -m pip install -q -e '.[prove]'
	$(RUN)/python -m tests.campaigns.fuzz_tcp --seconds 600
	$(RUN)/python -m tests.mutation --jobs 2

# Build the wheel, install it into a clean environment, and use it there.
wheel: $(VENV)/.dev
	rm -rf dist build/wheel
	$(RUN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install -q dist/*.whl
	cd build && wheel/bin/python -c "import understudy; print(understudy.__version__, understudy.Actor, understudy.run, understudy.connect, understudy.serve)"
	cd build && wheel/bin/understudy --help > /dev/null

clean:
	rm -rf $(VENV) dist build $(PEERS)/node_modules

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml | $(VENV)/bin/python
	$(RUN)/python -m pip install -q -e .
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(RUN)/python -m pip install -q -e '.[test]'
	touch $@ $(VENV)/.demo

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/python
	$(RUN)/python -m pip install -q -e '.[dev]'
	touch $@ $(VENV)/.test $(VENV)/.demo
