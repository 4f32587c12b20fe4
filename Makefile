# install     .venv with everything that development needs (exact versions: lock/)
# demo        the demo; installs only what it needs
# test        lint, types, tests; test-all adds the long forms; test-data DATA=DIR the tests on the sets in DIR;
#             test-ui the tests with a browser
# bench       every benchmark; installs the peers that they measure
# lock        resolve the dependencies anew
# clean       remove .venv and what tools left behind
.PHONY: install demo test test-all test-data test-ui lint types bench lock clean

PY := .venv/bin/python
# the first of these that runs and is new enough; 3.11 is what lock/ was resolved for
PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# everything is listed in lock/, so nothing else may come in
PIP := $(PY) -m pip --disable-pip-version-check install --quiet --no-deps

install: .venv/dev.stamp

$(PY):
	@test -n "$(PYTHON)" || { echo "nabi needs Python 3.11 or newer; none of python3.11, python3, python3.12, python3.13 is"; exit 1; }
	$(PYTHON) -m venv .venv

.venv/demo.stamp: pyproject.toml lock/torch.txt lock/demo.txt | $(PY)
	$(PIP) -r lock/torch.txt
	@if ls .venv/lib/python3.*/site-packages/torch/lib/libtorch_cuda* >/dev/null 2>&1; then \
		$(PY) -m pip uninstall --quiet --yes torch; \
		echo "pip took the CUDA build of torch: configure pip with an index or folder that has the CPU build"; exit 1; fi
	$(PIP) --require-hashes -r lock/demo.txt
	$(PIP) --no-build-isolation -e .
	@touch $@

.venv/dev.stamp: lock/dev.txt .venv/demo.stamp
	$(PIP) --require-hashes -r lock/dev.txt
	@touch $@

demo: .venv/demo.stamp
	$(PY) -m nabi.demo

lint: install
	$(PY) -m ruff check .

types: install
	$(PY) -m mypy

test: lint types
	$(PY) -m pytest -n 2 --dist loadfile -m "not slow and not needs_data and not ui"

.venv/cluster.stamp: lock/cluster.txt .venv/dev.stamp
	$(PIP) --require-hashes -r lock/cluster.txt
	@touch $@

test-all: lint types .venv/cluster.stamp
	$(PY) -m pytest -n 2 --dist loadfile -m "not needs_data and not ui"

test-data: install
	@test -d "$(DATA)" || { echo "say where the data sets are: make test-data DATA=DIR"; exit 1; }
	NABI_DATA="$(abspath $(DATA))" $(PY) -m pytest -m needs_data

test-ui: install
	@command -v chromium >/dev/null || { echo "test-ui needs a chromium on the PATH"; exit 1; }
	$(PY) -m pytest -m ui

.venv/peers.stamp: lock/peers.txt .venv/cluster.stamp
	$(PIP) --require-hashes -r lock/peers.txt
	@touch $@

bench: .venv/peers.stamp
	@for file in benchmarks/*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

lock: $(PY)
	$(PY) tools/lock.py

clean:
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
