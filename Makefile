# `make demo` and `make test` set everything up by themselves, in .venv and .demo.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMPOSE = $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# uv installs what pip would, in a fraction of the time; where packages lie is said in pip's words, which images know, too.
comma := ,
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
export UV_FIND_LINKS ?= $(subst $() ,$(comma),$(strip $(PIP_FIND_LINKS)))
export UV_INDEX_STRATEGY := unsafe-best-match
# Where nobody may write bytecode later, each of the many processes would compile Airflow anew.
export UV_COMPILE_BYTECODE := 1
UV_INSTALL = $(BIN)/uv pip install -q --python $(BIN)/python -c constraints.txt
# SageMaker takes an image, not an index of an image and what attests it.
export BUILDX_NO_DEFAULT_ATTESTATIONS := 1

.PHONY: demo ui up down backup restore check test soak bench gpu gpu-wheels reference docs lint clean constraints images push pushable

demo: $(VENV)/installed  ## Take CAPTURE (the sample when not given) through the whole DAG.
	$(BIN)/python deploy/demo/demo.py run $(if $(CAPTURE),--capture "$(CAPTURE)") $(if $(PRESET),--preset $(PRESET))

ui: $(VENV)/installed  ## Airflow's own UI with the DAGs in it, on http://localhost:8080, for CAPTURE.
	$(BIN)/python deploy/demo/demo.py ui $(if $(CAPTURE),--capture "$(CAPTURE)")

up:  ## The whole platform in containers; WORKERS=2 for Celery with two workers, MONITORING=1 for Grafana, DOCS=1 for these docs.
	@COMPOSE="$(COMPOSE)" sh deploy/compose/up.sh

down:  ## Stop it; the data stay in their volumes.
	@COMPOSE="$(COMPOSE)" sh deploy/compose/down.sh

TO ?= backups/$(shell date -u +%Y-%m-%dT%H%M%SZ)
backup:  ## The running platform's database, secrets and artifact store into the folder TO.
	@COMPOSE="$(COMPOSE)" TO="$(TO)" sh deploy/compose/backup.sh

restore:  ## A platform from the folder BACKUP, where none is.
	@test -n "$(BACKUP)" || { echo "Say from where: make restore BACKUP=backups/2026-11-23T020000Z"; exit 2; }
	@COMPOSE="$(COMPOSE)" BACKUP="$(BACKUP)" sh deploy/compose/restore.sh

# By the schedule of tests/conftest.py, which begins with what takes long. Containers, which tests wait for, go first.
# They start hundreds of processes, each of which would compile this project anew.
check test: export PYTHONDONTWRITEBYTECODE =
PYTEST = nice -n 5 $(BIN)/python -m pytest --dist loadscope --no-loadscope-reorder --max-worker-restart 0

check: lint  ## What one runs every few minutes: lint, types and the quick tests, which need no engine and no browser.
	$(PYTEST) -n 2 -m 'not slow and not browser and not soak' $(TESTS)

test: $(VENV)/installed-dev  ## Every test, in one worker more than two cores: many of them wait for something.
	$(PYTEST) -n 3 $(TESTS)

soak: $(VENV)/installed-dev  ## Whole captures, a million histories, chaos, and properties tried thousands of times: hours.
	$(BIN)/python -m pytest -m 'soak or hypothesis' --hypothesis-profile minutes -s $(TESTS)

bench: $(VENV)/installed-dev  ## Speed, as ratios against named baselines.
	for what in rasterizer sfm compress streaming orchestration observing waiting; do echo "== $$what"; $(BIN)/python bench/$$what.py || exit 1; done

# Any Python that has torch for CUDA; what else it lacks comes from the wheels that `make gpu-wheels` fetched.
GPU_PYTHON ?= python3
GPU_WHEELS := .gpu-wheels
gpu:  ## Tests and speed on this machine's CUDA GPU, beside gsplat's own training; downloads nothing.
	$(GPU_PYTHON) bench/gpu.py $(if $(ONLY),--only $(ONLY)) $(if $(MINUTES),--minutes $(MINUTES))

# For the Python of a machine with a GPU and no network.
GPU_PYTHON_VERSION ?= 3.12
gpu-wheels:  ## What `make gpu` may lack, into .gpu-wheels.
	$(PYTHON) -m pip download -q --no-deps --only-binary=:all: --implementation cp --python-version $(GPU_PYTHON_VERSION) \
	  $(foreach tag,manylinux_2_28 manylinux_2_17 manylinux2014,--platform $(tag)_x86_64) \
	  -c constraints.txt -d $(GPU_WHEELS) -r bench/gpu-requirements.txt

reference: $(VENV)/installed-dev  ## docs/reference, from what the code declares.
	$(BIN)/python docs/make_reference.py

docs: $(VENV)/installed-dev  ## The documentation as a site, into site/; every warning is an error.
	$(BIN)/python -m sphinx -q -W --keep-going docs site
	@echo "Open site/index.html"

TSC := tests/javascript/node_modules/typescript/bin/tsc
lint: $(VENV)/installed-dev  ## Style, types, and who may import whom.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/node $(TSC) -p tests/javascript

clean:
	rm -rf $(VENV) .demo $(GPU_WHEELS) build dist site node_modules containers/compressor/node_modules tests/javascript/node_modules .pytest_cache .mypy_cache .ruff_cache *.egg-info

# The very files that images install. PyPI's PyTorch is for CUDA, an index named beside it has the one for CPUs.
LOCK_CPU = $(BIN)/uv pip compile -q --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -c constraints.txt
LOCK = UV_INDEX= UV_FIND_LINKS= $(LOCK_CPU)
constraints: $(VENV)/installed-dev  ## Pin everything anew, and lock what goes into images by hashes.
	$(BIN)/uv pip compile --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url -q pyproject.toml --all-extras -o constraints.txt
	sed -i '1i # Exact versions of everything, for containers, the demo and CI; made by `make constraints`.' constraints.txt
	for name in sfm compressor 3dgs docs; do $(LOCK) containers/$$name/requirements.txt -o containers/$$name/locked.txt; done
	$(LOCK_CPU) --no-emit-package torch containers/3dgs/requirements.txt -o containers/3dgs/locked-cpu.txt
	echo 'cuda-toolkit[nvcc,cccl]' | $(LOCK) - -o containers/3dgs/locked-nvcc.txt
	$(LOCK) --no-deps containers/airflow/requirements.txt -o containers/airflow/locked.txt

$(VENV)/bin/uv:
	$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing: apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python -m pip install -q -c constraints.txt uv

$(VENV)/installed: $(VENV)/bin/uv pyproject.toml setup.py constraints.txt $(wildcard containers/*/requirements.txt) containers/compressor/package-lock.json
	@echo "Installing Airflow, pycolmap, PyTorch and the rest into $(VENV), once: gigabytes, and some minutes …"
	$(UV_INSTALL) -e '.[local]'
	$(BIN)/npm ci --prefix containers/compressor --omit=peer --ignore-scripts --no-audit --no-fund --silent
	ln -sfn ../../containers/compressor/node_modules/.bin/splat-transform $(BIN)/splat-transform
	touch $@

$(VENV)/installed-dev: $(VENV)/installed tests/requirements.txt tests/javascript/package-lock.json
	$(UV_INSTALL) -r tests/requirements.txt -r containers/docs/requirements.txt
	$(BIN)/npm ci --prefix tests/javascript --ignore-scripts --no-audit --no-fund --silent
	touch $@

VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' containers/e2e3d_stages/__init__.py)
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null)
SOURCE = $(shell git config --get remote.origin.url 2>/dev/null | sed 's|//[^/@]*@|//|')
# Kernels are compiled for this machine's GPUs; the image of a machine without one is for CPUs only.
CUDA_ARCHITECTURES ?= $(sort $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | grep -x '[0-9.]*'))

images: image-sfm image-3dgs image-compressor image-airflow  ## Every container's image, on this machine's Docker engine.
	docker image ls --filter 'reference=e2e3d/*:$(VERSION)'

image-3dgs: BUILD_ARGS = --build-arg 'CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)' $(if $(PIP_EXTRA_INDEX_URL),--build-arg PIP_EXTRA_INDEX_URL)

image-%:
	docker build --file containers/$*/Dockerfile --tag e2e3d/$*:$(VERSION) --build-arg VERSION=$(VERSION) \
	  --build-arg 'REVISION=$(REVISION)' --build-arg 'SOURCE=$(SOURCE)' $(BUILD_ARGS) \
	  $(foreach name,PYTHON_IMAGE AIRFLOW_IMAGE CADDY_IMAGE,$(if $($(name)),--build-arg $(name)=$($(name)))) .

push: pushable $(VENV)/installed images  ## The images into REGISTRY, by version and commit; see docs/images.md.
	$(BIN)/python deploy/push.py "$(REGISTRY)"

# Before minutes of building for nothing.
pushable:
	@test -n "$(REGISTRY)" || { echo "Say where to: make push REGISTRY=123456789012.dkr.ecr.eu-central-1.amazonaws.com"; exit 2; }
	@test -z "$$(git status --porcelain)" || { git status --short; \
	  echo "Commit or put away what is changed: an image's tag names the commit that it was built of."; exit 2; }
