# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: demo test check format gpu-test install clean

demo: $(INSTALLED) ## install if needed, then run the main job: an ablation through Ray, live, with its table at the end
	$(BIN)/mambalab submit demo --follow

test: $(INSTALLED) ## install if needed, then run the whole suite in two processes (Triton's interpreter in processes of its own)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/interpreter

check: $(INSTALLED) ## lint, formatting, strict types, import directions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

gpu-test: $(INSTALLED) ## kernels, models and tasks on this machine's GPU, in a process for each core
	$(BIN)/python -m tests.parity.run

format: $(INSTALLED)
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mambalab needs Python 3.11 or newer; this is $$($(PYTHON) --version). Name another: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	@touch $(INSTALLED)

clean: ## forget the environment; the store in .mambalab stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
