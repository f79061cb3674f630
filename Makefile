# make demo   set up, train a recipe on generated data, draw its curve, score the saved checkpoint, predict
# make test   set up, run every test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
RUN := runs/demo
.PHONY: setup demo test lint docs clean
.DEFAULT_GOAL := demo

# Installed again only when the dependencies change; an interrupted installation leaves no stamp and is taken up again.
$(STAMP): pyproject.toml setup.py constraints.txt
	@echo "setting up $(VENV) (once; some minutes, mostly torch)"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: $(STAMP)

demo: $(STAMP)
	@start=$$(date +%s) && rm -rf $(RUN) \
	&& $(BIN)/python tools/train.py recipe=rec/deepfm_toy output_dir=$(RUN) \
	&& echo "--- the curve, from $(RUN)/metrics.jsonl" && $(BIN)/python tools/plot.py $(RUN) \
	&& echo "--- the saved checkpoint, scored again" && $(BIN)/python tools/eval.py recipe=rec/deepfm_toy init.weights=$(RUN) \
	&& echo "--- three predictions" && $(BIN)/python tools/predict.py recipe=rec/deepfm_toy init.weights=$(RUN) \
	&& echo "--- done in $$(( $$(date +%s) - start )) s; next: $(BIN)/paddlesuite zoo"

# Two workers with one thread each: more would only get in each other's way. pytest's summary is the last line.
test: $(STAMP)
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(STAMP)
	@$(BIN)/python -m sphinx -q -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf $(VENV) build dist docs/_build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
