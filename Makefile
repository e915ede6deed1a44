PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := src tests benchmarks examples notebooks $(wildcard docs/*.py)

.PHONY: help install demo test quick lint format docs site links bench package clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

install: $(STAMP)  ## regard and its development tools, into .venv

$(STAMP): pyproject.toml src/regard/version.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(STAMP)  ## train, correct and measure on the built-in data; ends in demo/report.html
	$(BIN)/regard demo --overwrite

test: $(STAMP) lint  ## every check: style, types, tests
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal

quick: $(STAMP) lint  ## the same without training runs, several processes, clusters and compilers
	$(BIN)/pytest -n auto --maxprocesses 8 --dist worksteal -m "not slow"

lint: $(STAMP)  ## style, types, spelling
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/mypy
	$(BIN)/codespell src benchmarks examples docs *.md

format: $(STAMP)  ## put style right
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

docs: $(STAMP)  ## the site, into build/docs; a broken link, reference or docstring is an error
	$(BIN)/sphinx-build -q -a -W --keep-going -d build/doctrees docs build/docs

site: docs  ## the same, at http://localhost:8000
	$(BIN)/python -m http.server 8000 --bind localhost --directory build/docs

links: $(STAMP)  ## ask every address that the pages link to
	$(BIN)/sphinx-build -q -b linkcheck -d build/doctrees docs build/links

bench: $(STAMP)  ## every benchmark but those that ask for data; appends to benchmarks/RESULTS.md
	for script in $(filter-out benchmarks/transfer_cifar.py benchmarks/pictures.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$script || exit 1; done

package: $(STAMP)  ## build wheel and sdist, and try the wheel in a fresh environment, extra by extra
	rm -rf build/package
	$(BIN)/python -m build --outdir build/package
	$(PYTHON) -m venv build/package/venv
	mkdir build/package/work
	cd build/package/work && for extra in '' cli coco scale ray export; do \
	  echo "regard$${extra:+[$$extra]}:" && \
	  ../venv/bin/python -m pip install --quiet "$$(echo ../regard-*.whl)$${extra:+[$$extra]}" && \
	  REGARD_CACHE=../cache ../venv/bin/python ../../../tests/smoke.py $$extra || exit 1; \
	done

clean:  ## remove what was built and the demo's runs
	rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache
