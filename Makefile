# The two commands of a new user: `make reproduce-tables` and `make test`. Both create .venv where it is missing.
PYTHON ?= python3
VENV   ?= .venv
# A CPU build by default. For a GPU: make setup TORCH="torch>=2.6" TORCH_INDEX= (in a checkout that is set up already
# too: torch is exchanged then, and the other targets take the one that is there).
TORCH       ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# Architectures of each partition of the score store that `make verify` computes again.
CELLS ?= 20
HARNESS = $(VENV)/bin/harness
# Set up with any torch; where one is named, with that one.
ifeq ($(origin TORCH)/$(origin TORCH_INDEX),file/file)
READY  := $(VENV)/.ready
else
READY  := $(VENV)/.ready-$(shell printf '%s' '$(TORCH) $(TORCH_INDEX)' | cksum | cut -d' ' -f1)
endif
# Scores of the checkout, and where the intervals of its plots and page are kept.
RESULTS = store=results/scores cache=results/.cache
TORCHVISION ?= torchvision==0.28.*
# Two processes, each with the tests of whole files in a row, so that what the tests of a file share is made once.
SPREAD = -n 2 --dist worksteal

.PHONY: help setup setup-all test-torch reproduce-tables page test lint fuzz bench bench-gpu verify reference verify-references queue clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | column -t -s "$$(printf '\t')"

setup: $(READY)  ## create .venv and install the package with what its tests need

# The CPU index carries torch alone; where it cannot be reached, the configured index serves.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	@if [ -e $(VENV)/.ready ] && [ $@ != $(VENV)/.ready ] && [ ! -e $@ ]; then \
	  $(VENV)/bin/pip uninstall -q -y torch; fi  # pip takes a build for another device for the same torch
	@rm -f $(VENV)/.ready*
	@if [ -n "$(TORCH_INDEX)" ]; then \
	  $(VENV)/bin/pip install -q --retries 0 --timeout 10 --no-deps --index-url $(TORCH_INDEX) "$(TORCH)" >/dev/null 2>&1 || true; fi
	$(VENV)/bin/pip install -q "$(TORCH)" -e ".[dev]"
	@touch $(VENV)/.ready $@

reproduce-tables: $(READY)  ## build every table from the stored scores into results/tables
	$(HARNESS) report store=results/scores output=results/tables

page: $(READY)  ## draw plots and write the page to open in a browser into results/
	$(HARNESS) report plots $(RESULTS) tables=results/tables output=results/plots
	$(HARNESS) report page $(RESULTS) output=results/site

test: $(READY)  ## run the tests (PYTEST=--no-skip: those that miss something fail)
	$(VENV)/bin/python -m pytest $(SPREAD) $(PYTEST)

fuzz: $(READY)  ## read files and settings that nobody would write, for MINUTES=10, or TRIES=2000 of each kind
	$(VENV)/bin/python tests/fuzzing.py $(or $(MINUTES),$(if $(TRIES),90,10)) $(TRIES)

# torchvision of the same age as torch 2.13: the models that the tests score come from it and from timm.
setup-all: $(READY)  ## install what the tests skip without: Ray, playwright, torchvision and timm
	$(VENV)/bin/pip install -q -e ".[ray,browser]" "$(TORCH)" $(TORCHVISION) timm

# A torch of its own beside the one in $(VENV): make test-torch TORCH=torch==2.6.0
OTHER = .venv-$(subst =,,$(subst >,,$(subst <,,$(TORCH))))
test-torch:  ## run the tests of probes, proxies, scoring and API on another torch (TORCH=torch==2.6.0)
	$(MAKE) setup VENV=$(OTHER) "TORCH=$(TORCH)"
	$(OTHER)/bin/python -m pytest $(SPREAD) tests/test_proxies_by_hand.py \
	  tests/test_proxy_invariants.py tests/test_hessian.py tests/test_scoring.py tests/test_api.py $(PYTEST)

lint: $(READY)  ## check the style
	$(VENV)/bin/ruff check harness tests

bench-gpu: $(READY)  ## on a machine with a GPU, ten minutes: networks a second, utilisation, speed-up of workers
	$(VENV)/bin/python -m harness.bench.gpu --output results/bench_gpu.json

bench: $(READY)  ## cost of the passes in units of one forward + backward pass
	$(VENV)/bin/python -m harness.bench --output results/bench.json

verify: $(READY)  ## do the committed numbers hold? (CELLS=20 scores of each partition are computed again)
	$(HARNESS) verify store=results/scores tables=results/tables baseline=results/baseline.json cells=$(CELLS)

reference: $(READY)  ## write docs/reference.md from the docstrings
	$(VENV)/bin/python -m harness.cli.reference > docs/reference.md

verify-references: $(READY)  ## compare proxies with scores computed elsewhere (REFERENCES=file.parquet)
	$(HARNESS) verify references store=results/scores path=$(REFERENCES)

queue: $(READY)  ## run the scoring runs of results/QUEUE.md that are missing (MINUTES=60, DATA=images)
	$(HARNESS) queue queue=results/QUEUE.md store=results/scores $(if $(MINUTES),minutes=$(MINUTES)) $(if $(DATA),data=$(DATA))

clean:  ## remove what setup and test-torch created
	rm -rf $(VENV) .venv-torch* build dist
