# Everything here works in a fresh clone with nothing but make and Python ≥ 3.10.
PYTHON ?= python3
# Where torch comes from. The default build on Linux needs gigabytes of CUDA libraries; for a CPU
# only: make test TORCH_INDEX=URL, with the address of the CPU-only index that PyTorch names.
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CODE := normsurgery tests benchmarks docs

.PHONY: demo test test-gpu bench census schema docs figure lint fix check clean

demo: $(STAMP) ## convert the GPT-2 that the project ships, and show the report
	$(BIN)/normsurgery convert tests/data/tiny-gpt2-6x96 -o demo-out --overwrite

test: $(STAMP) ## the whole suite on all cores; GPU tests skip themselves where there is no GPU
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal

test-gpu: $(STAMP) ## only the tests that need CUDA
	$(BIN)/pytest -m gpu

bench: $(STAMP) ## the figures of the README's performance section
	@for script in benchmarks/[!_]*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

census: $(STAMP) ## every family of transformers: what converts, with which error, and why not the rest
	$(BIN)/python -m normsurgery.anatomy.census --csv census.csv
	$(BIN)/python -m normsurgery.anatomy.census --batch-norm --csv census-batchnorm.csv

schema: $(STAMP) ## the JSON schema of recipes, for editors, from what they are checked against
	$(BIN)/python -c 'from normsurgery.recipe.editor import schema_text; print(schema_text(), end="")' \
		> recipes/recipe.schema.json

docs: $(STAMP) ## the documentation as a site, in site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

figure: $(STAMP) ## the README's picture of a run, drawn anew from a run
	$(BIN)/python docs/figure.py

lint: $(STAMP)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy

fix: $(STAMP)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

check: lint test

# lm-evaluation-harness stands beside it too: what it pulls in asks for other versions of what the
# pins name, so that pip falls back to releases of ten years ago.
HARNESS := lm_eval evaluate chardet colorama dataproperty lxml mbstrdecoder more_itertools nltk \
	pathvalidate portalocker pytablewriter pytz rouge_score sacrebleu six sqlitedict tabledata \
	tabulate tcolorpy typepy word2number

# torch first and pinned: resolved together with the rest, pip may fetch several builds of it.
# timm stands beside the environment: the torchvision that it asks for is built for another torch,
# and transformers' image code fails where it can see it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) \
		$$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev,engines]'
	$(BIN)/pip install --quiet --upgrade --no-deps --target $(VENV)/timm -c constraints.txt \
		timm torchvision
	$(BIN)/pip install --quiet --upgrade --no-deps --target $(VENV)/lm-eval -c constraints.txt \
		$(HARNESS)
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo-out site
