# make demo   set up .venv, start everything on the shipped model, watch it stream
# make test   set up .venv, run the whole test suite
# make check  ruff, mypy --strict, proto lint and stub drift
# make bench  measure against named baselines
#
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf) apply as they are: to take
# PyTorch's CPU build on a machine without a GPU, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index first.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
TEST_ARGS ?=

.PHONY: demo test check bench setup clean

demo: setup
	$(RUN) examples/demo.py

# One compute thread a process: tests run many processes, and two threads on a busy core wait for each other.
test: setup
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(TEST_ARGS)

check: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	cd protos && ../$(VENV)/bin/buf lint
	$(RUN) protos/generate.py --check

bench: setup
	$(RUN) -m benchmarks

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
