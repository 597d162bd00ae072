# Every target creates the environment .venv if it does not exist. `demo` installs the package for users; the other targets
# also install the development tools. Python 3.11 or newer and g++ (for nes-py) are required.
PYTHON ?= python3
WORLD ?= car-racing
PRESET ?= quick
SKIPS ?= allow
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable
USABLE := .venv/.user
READY := .venv/.ready
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile $(if $(filter forbid,$(SKIPS)),--no-skips)

# Tests start many processes; without bytecode files each of them compiles all modules anew.
unexport PYTHONDONTWRITEBYTECODE

# Settings of another machine: older vector instructions, other sums, language and time zone. See tests/tolerance.py.
ELSEWHERE := ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 MKL_CBWR=COMPATIBLE TEST_THREADS=2 OMP_WAIT_POLICY=PASSIVE \
	LC_ALL=C TZ=Asia/Kolkata
NUMERICAL := tests/worldmodel tests/envs/test_dream_env.py \
	$(patsubst %,tests/rollouts/test_%.py,dream stall_termination exact_dream fitness datasets state_resets ensemble) \
	$(patsubst %,tests/agents/test_%.py,agents comparison controller whitening density dream_video evolution behavior_cloning metrics cma_es)

.PHONY: demo test test-portable test-slow check lint type docs format bench newest

demo: $(USABLE)  ## the whole pipeline on a real game; WORLD=mario for Super Mario Bros, WORLD=doom for ViZDoom's Take Cover
ifneq (,$(filter doom%,$(WORLD)))
	$(BIN)/python -c 'import vizdoom' 2>/dev/null || $(INSTALL) '.[viewer,doom]'
endif
	$(BIN)/worldmodel run $(WORLD:doom=doom-take-cover) --preset $(PRESET)

test: $(READY)  ## the fast tests; make test-slow runs the rest; with SKIPS=forbid, as in CI, a skipped test fails
	$(PYTEST)

test-portable: $(READY)  ## the tests that compare numbers, with the settings of another machine
	$(ELSEWHERE) $(PYTEST) $(NUMERICAL)

test-slow: $(READY)
	$(PYTEST) -m slow

check: lint type docs test  ## everything that must pass before a commit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY)  ## the types of the package as it is installed, with the folders beside worldmodel/ in it
	rm -rf build/types && mkdir -p build/types/worldmodel
	ln -s $(CURDIR)/worldmodel/[a-z_]*[a-z.]* $(addprefix $(CURDIR)/,agents envs rollouts) build/types/worldmodel
	cd build/types && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml

docs: $(READY)  ## the pages of the documentation, in docs/_build/html; fails if a table differs from its file
	$(BIN)/python -m benchmarks.pages --check
	$(BIN)/python -m sphinx -b html -q -W --keep-going -n docs docs/_build/html

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## tables of speed, as ratios to a rival or limit measured in the same run
	$(BIN)/python -m benchmarks

newest:  ## the fast tests with the newest versions that pyproject.toml allows, in a separate environment
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,docs]'
	.venv-newest/bin/python -m pip freeze --exclude-editable
	.venv-newest/bin/python -m pip check
	.venv-newest/bin/python -m pytest -n 2

$(USABLE): pyproject.toml constraints.txt
	@echo 'Installing into .venv (1.7 GB with a CPU build of torch): some minutes, once.'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[viewer]'
	touch $@

$(READY): pyproject.toml constraints.txt
	@echo 'Installing into .venv with the development tools (3.1 GB with a CPU build of torch): some minutes, once.'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(INSTALL) '.[dev,docs]'
	touch $(USABLE) $@
