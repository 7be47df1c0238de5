# Two commands do everything on a fresh machine: `make quickstart` and `make test`.
PYTHON ?= python3
VENV ?= .venv
# Processes that test side by side; auto: as many as there are processors.
WORKERS ?= auto
# What is tested, such as tests/search; nothing: everything.
TESTS ?=
# What pip leaves uncompiled is compiled once, when it is first imported, and not in every process again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install quickstart test coverage lint types docs wheel bench clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile torch torchvision  # modules are compiled when first imported
	$(VENV)/bin/python -m pip install --quiet --no-compile --editable '.[dev]'
	touch $@

$(VENV)/usable: pyproject.toml  # what the quickstart needs: one runtime, the page, nothing that checks the code
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --no-compile torch torchvision
	$(VENV)/bin/python -m pip install --quiet --no-compile --editable '.[onnx,report]'
	touch $@

install: $(VENV)/installed

quickstart: $(if $(wildcard $(VENV)/installed),install,$(VENV)/usable)
	$(VENV)/bin/tunas design --cost_model=pixel1 --latency=84 --random=3 --workers=2 --out=runs/quickstart

test: install
# A thread for each process: more would take the cores from each other.
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal --durations=10 $(TESTS)

coverage: install  # also in the processes that the tests start
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(TESTS) \
		--cov --cov-report=term-missing:skip-covered; \
	code=$$?; rm -f .coverage.*; exit $$code  # those files are of processes that ended after the tests

lint: install
	$(VENV)/bin/ruff check src tests benchmarks examples tools
	$(VENV)/bin/ruff format --check src tests benchmarks examples tools
	$(VENV)/bin/python tools/prose.py --check

types: install
	$(VENV)/bin/mypy

docs: install  # into site/; a link that leads nowhere is an error
	$(VENV)/bin/mkdocs build --quiet

wheel: install  # into dist/; installed alone beside the dependencies, it runs the quickstart on a small space
	rm -rf dist $(VENV)-wheel
	$(VENV)/bin/python -m build --quiet --wheel
	$(VENV)/bin/python -m venv $(VENV)-wheel
	$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		> "$$($(VENV)-wheel/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
	$(VENV)-wheel/bin/python -m pip install --quiet --no-deps dist/*.whl
	cd $(VENV)-wheel && bin/tunas quickstart --ssd=$(CURDIR)/tests/support/tiny_space.py:tiny --cost_model=params \
		--train=epochs=1 --random=1
	rm -rf $(VENV)-wheel

bench: install
	for script in supernet_step controller_speed controller_regret input_pipeline; do \
		$(VENV)/bin/python benchmarks/$$script.py || exit 1; \
	done

clean:
	rm -rf $(VENV) runs site
