# make course   sets everything up, runs the notebooks top to bottom (built-in 135M model, CPU or GPU)
# make test     sets everything up, runs the tests
# make lab      sets everything up, opens the notebooks in JupyterLab
# Needs Python 3.11 or newer, make and PyPI; no GPU, no compiler, no account.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OLD    := $(abspath $(VENV))/old-widgets

.PHONY: course test test-fast test-old-widgets lab notebooks results samples bench own-answers small-base experiments histories \
	browser stamp lint setup clean

setup: $(READY)

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; set PYTHON=python3.12, say"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (once, a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep -o '^torch==[0-9.]*' requirements.txt)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -c 'from hermes_nb import models; print("built-in model:", models.builtin())'
	@touch $@

course: $(READY)
	@$(BIN)/python -m hermes_nb course

test: $(READY)
	@$(BIN)/python -m pytest

test-fast: $(READY)
	@$(BIN)/python -m pytest -m "not slow and not long and not browser"

# the tests of the widgets again, with the ipywidgets, IPython and ipykernel that Google Colab has
test-old-widgets: $(OLD)/.ready
	@PYTHONPATH=$(OLD) HERMES_WIDGETS=old $(BIN)/python -m pytest tests/test_widgets*.py \
		-m "not slow and not long and not browser" -W "error:Passing unrecognized arguments:DeprecationWarning"

$(OLD)/.ready: tests/old_widgets.txt $(READY)
	@rm -rf $(OLD)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: --target $(OLD) -r $<
	@touch $@

# open JupyterLab in Chromium and do what a reader does (about 15 minutes); Debian's package is `chromium`
browser: $(READY)
	@$(BIN)/python -m pytest -m browser tests/browser

lab: $(READY)
	@$(BIN)/python -m jupyterlab notebooks

# execute the notebooks and commit their outputs
notebooks: $(READY)
	@$(BIN)/python -m hermes_nb course --in-place

# run the course recipe over three seeds and write its figures into README.md (about 15 minutes on two cores)
results: $(READY)
	@$(BIN)/python data_samples/experiments.py headline

# measure the data side against the bare tokenizer, DPO against TRL and the merge against cp, and draw README's tables
# (about 45 minutes; the merge of the size of 7B needs 32 GB of disk)
bench: $(READY)
	@$(BIN)/python -m hermes_nb bench data --memory 200000 --json data_samples/benchmarks/data_cpu.json --readme README.md
	@$(BIN)/python -m hermes_nb bench dpo --lengths orca --json data_samples/benchmarks/dpo_cpu_orca.json
	@$(BIN)/python -m hermes_nb bench dpo --json data_samples/benchmarks/dpo_cpu_ultrafeedback.json --readme README.md
	@$(BIN)/python -m hermes_nb bench merge --size 1b --json data_samples/benchmarks/merge_cpu_1b.json
	@$(BIN)/python -m hermes_nb bench merge --size 7b --repeats 1 --json data_samples/benchmarks/merge_cpu_7b.json \
		--readme README.md

# write the sample rows from their topic files
samples:
	@$(PYTHON) data_samples/build.py
	@$(PYTHON) data_samples/raw.py

# the runs that the notebooks show without running them, and the shipped adapters (about 40 minutes)
experiments: $(READY)
	@$(BIN)/python data_samples/experiments.py

# train the small base model of 04_merge from scratch on our own rows (about 3 minutes on one core)
small-base: $(READY)
	@$(BIN)/python data_samples/small_base.py

# logged runs that every widget can show without training (about 15 minutes)
histories: $(READY)
	@$(BIN)/python data_samples/histories.py

# write the repository's address from pyproject.toml into badges and setup cells
stamp: $(READY)
	@$(BIN)/python -m hermes_nb course --stamp

# let the built-in model answer, for the pairs of neuralhermes at tiny
own-answers: $(READY)
	@$(BIN)/python data_samples/own_answers.py

lint: $(READY)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check hermes_nb tests data_samples

clean:
	rm -rf $(VENV) runs
