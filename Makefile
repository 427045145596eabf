# make demo   set up .venv, start everything on the shipped models, take the tour
# make test   set up .venv, run the whole test suite
# make check  ruff, mypy --strict, proto lint and stub drift
# make bench  measure against named baselines; make bench-gpu: against what a GPU can do
#
# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, pip.conf) apply as they are: to take
# PyTorch's CPU build on a machine without a GPU, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index first.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
TEST_ARGS ?=

INSTALL = $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench bench-gpu clean

demo: $(VENV)/.ready
	$(RUN) examples/demo.py

# One compute thread a process: tests run many processes, and two threads on a busy core wait for each other.
test: $(VENV)/.ready-dev
	OMP_NUM_THREADS=1 $(RUN) -m pytest $(TEST_ARGS)

check: $(VENV)/.ready-dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	cd protos && ../$(VENV)/bin/buf lint
	$(RUN) protos/generate.py --check

# The decode benchmark compares with two versions of transformers; the second needs an environment of its own.
bench: $(VENV)/.ready-dev $(VENV)-transformers5/.ready
	TRANSFORMERS5_PYTHON=$(VENV)-transformers5/bin/python $(RUN) -m benchmarks

bench-gpu: $(VENV)/.ready-dev
	$(RUN) -m benchmarks.decode_gpu
	$(RUN) -m benchmarks.encoder_gpu

$(VENV)/.ready: pyproject.toml constraints.txt
	@echo "Installing xlmstream and PyTorch into $(VENV): a minute or two, the first time only."
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e '.[all]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "Installing the tools for tests and checks into $(VENV), the first time only."
	@$(INSTALL) -e '.[dev]'
	@touch $@

$(VENV)-transformers5/.ready: pyproject.toml constraints.txt
	@echo "Installing transformers 5 into $(VENV)-transformers5, the first time only."
	@$(PYTHON) -m venv $(VENV)-transformers5
	@$(VENV)-transformers5/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all]'
	@$(VENV)-transformers5/bin/python -m pip install --quiet --disable-pip-version-check 'transformers>=5,<6'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-transformers5 dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
