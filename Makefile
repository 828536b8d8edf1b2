# `make demo` and `make test` set everything up by themselves, in .venv and .demo.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo ui test soak bench lint clean constraints

demo: $(VENV)/installed  ## Take CAPTURE (the sample when not given) through the whole DAG.
	$(BIN)/python deploy/demo/demo.py run $(if $(CAPTURE),--capture "$(CAPTURE)") $(if $(PRESET),--preset $(PRESET))

ui: $(VENV)/installed  ## Airflow's own UI with the DAGs in it, on http://localhost:8080.
	$(BIN)/python deploy/demo/demo.py ui $(if $(CAPTURE),--capture "$(CAPTURE)")

test: $(VENV)/installed-dev  ## Every test.
	$(BIN)/python -m pytest $(TESTS)

soak: $(VENV)/installed-dev  ## Quality on whole captures: many minutes.
	$(BIN)/python -m pytest -m soak -s $(TESTS)

bench: $(VENV)/installed-dev  ## Speed, as ratios against named baselines.
	for what in rasterizer sfm compress orchestration; do echo "== $$what"; $(BIN)/python bench/$$what.py || exit 1; done

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .demo build dist node_modules containers/compressor/node_modules .pytest_cache .mypy_cache .ruff_cache *.egg-info

constraints: $(VENV)/installed-dev  ## Pin everything anew.
	$(BIN)/python -m pip install -q uv
	$(BIN)/uv pip compile --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url -q pyproject.toml --all-extras -o constraints.txt

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }

$(VENV)/installed: $(VENV)/bin/python pyproject.toml setup.py constraints.txt $(wildcard containers/*/requirements.txt) containers/compressor/package-lock.json
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[local]'
	$(BIN)/npm ci --prefix containers/compressor --omit=peer --ignore-scripts --no-audit --no-fund --silent
	ln -sfn ../../containers/compressor/node_modules/.bin/splat-transform $(BIN)/splat-transform
	touch $@

$(VENV)/installed-dev: $(VENV)/installed tests/requirements.txt
	$(BIN)/python -m pip install -q -c constraints.txt -r tests/requirements.txt
	touch $@
