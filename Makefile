# make help lists the targets. Every target sets itself up: a virtual environment in .venv, made anew when the
# requirements change.
.DEFAULT_GOAL := help
SHELL := /bin/bash

PYTHON ?= python3# that makes the virtual environment: 3.11 to 3.13
TORCH_INDEX ?=# address of a wheel index for torch, e.g. that of the CPU-only builds on pytorch.org
DATA ?= glyphs# configs/data/*.yaml
LEARNER ?= protonet# configs/learner/*.yaml
POLICY ?=# configs/policy/*.yaml, laid over LEARNER in meta-train: how tasks are generated
GENERATOR ?= vae# configs/generator/*.yaml that draws from codes: of meta-train, if its tasks need one
REDRAWER ?= vae_deformation# configs/generator/*.yaml that draws given images again: the same
GAN ?= gan# configs/generator/gan*.yaml: of train-gan
VAE ?= vae# configs/generator/vae*.yaml: of train-vae
FLOW ?= flow# configs/generator/flow*.yaml: of train-flow
DIFFUSION ?= diffusion# configs/generator/diffusion*.yaml: of train-diffusion
SEED ?= 0
RUN ?= $(shell ls -td runs/*/*/mixed-seed*/fit 2>/dev/null | head -n 1)# run folder for meta-test
CKPT ?=# a generator's checkpoint: of explore, audit and sweep; the newest by default
SWEEP ?= share# configs/sweep/*.yaml
WORKERS ?= 1# trials of a sweep at a time
COMPARE ?= policies# configs/compare/*.yaml: of compare
QUICK ?=# of record: 1 for one seed
OVER ?= classes# of curves: classes, groups, images_per_class
RUNS ?=# of challenge: all_runs.zip of the Omniglot release, or the folder in it
ARGS ?=# more options, e.g. ARGS="--trainer.max_epochs 2"

# make itself takes any variable: LERNER=maml would train LEARNER's default and never say so
KNOWN := $(shell sed -nE 's/^([A-Z_]+) \?=.*/\1/p' $(firstword $(MAKEFILE_LIST)))
UNKNOWN := $(filter-out $(KNOWN),$(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name))))
ifneq ($(UNKNOWN),)
$(error $(or $(shell $(PYTHON) scripts/unknown_variables.py $(UNKNOWN) -- $(KNOWN)),unknown variable $(UNKNOWN); there are $(KNOWN)))
endif

VENV := .venv
STAMP := $(VENV)/.set-up
BIN := $(VENV)/bin
GENMETA := $(BIN)/python -m genmeta
TORCH := $(BIN)/pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch>=2.6" "torchvision>=0.21"

.PHONY: help setup train-gan train-vae train-flow train-diffusion compare-generators compare-policies compare-learners generator-ages explore audit meta-train meta-test challenge bench-generators bench-sampling bench-tasks bench-learners test test-all check docs docs-serve format clean report dashboard figures sweep sync bench-tracking long-run compare curves record

help: ## list the targets
	@echo "usage: make TARGET [DATA=glyphs] [LEARNER=protonet] [POLICY=] [GENERATOR=vae] [GAN=gan] [VAE=vae] [FLOW=flow] [DIFFUSION=diffusion] [SEED=0] [ARGS=...]"; echo
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 22
	@echo; echo "  DATA:      $(notdir $(basename $(wildcard configs/data/*.yaml)))"
	@echo "  LEARNER:   $(notdir $(basename $(wildcard configs/learner/*.yaml)))"
	@echo "  POLICY:    $(notdir $(basename $(wildcard configs/policy/*.yaml)))"
	@echo "  GENERATOR: $(notdir $(basename $(wildcard configs/generator/*.yaml)))"

setup: $(STAMP) ## install everything into .venv (TORCH_INDEX=... for a CPU-only torch)

$(STAMP): pyproject.toml requirements-learn2learn.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"genmeta needs Python 3.11 to 3.13, {sys.executable} is {v.major}.{v.minor}; choose one: make setup PYTHON=python3.12")'
	@echo "setting up $(VENV) (torch is large: minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=23.1"
	@$(TORCH)
	@$(BIN)/pip install --quiet --editable ".[dev]"
	@$(BIN)/pip install --quiet --no-deps -r requirements-learn2learn.txt
	@touch $@

train-gan: $(STAMP) ## pretrain a GAN (GAN=gan, a YAML) on the meta-train classes of DATA
	$(GENMETA) fit --config configs/generator/$(GAN).yaml --config configs/data/$(DATA).yaml --run.name $(GAN)-$(DATA) --seed_everything $(SEED) $(ARGS)

train-vae: $(STAMP) ## pretrain a VAE (VAE=vae, a YAML) on the meta-train classes of DATA
	$(GENMETA) fit --config configs/generator/$(VAE).yaml --config configs/data/$(DATA).yaml --run.name $(VAE)-$(DATA) --seed_everything $(SEED) $(ARGS)

train-flow: $(STAMP) ## pretrain a flow (FLOW=flow, a YAML) on the meta-train classes of DATA
	$(GENMETA) fit --config configs/generator/$(FLOW).yaml --config configs/data/$(DATA).yaml --run.name $(FLOW)-$(DATA) --seed_everything $(SEED) $(ARGS)

train-diffusion: $(STAMP) ## pretrain a diffusion model (DIFFUSION=diffusion, a YAML) on the meta-train classes of DATA
	$(GENMETA) fit --config configs/generator/$(DIFFUSION).yaml --config configs/data/$(DATA).yaml --run.name $(DIFFUSION)-$(DATA) --seed_everything $(SEED) $(ARGS)

compare-generators: $(STAMP) ## train all generators on DATA with two seeds (an hour on two cores) and write their table
	$(BIN)/python scripts/compare_generators.py --data $(DATA) --out docs/generators-$(DATA).md $(ARGS)

meta-train: $(STAMP) ## the whole experiment: generator, meta-training with and without it (seeds SEED and SEED + 1), meta-test, table
	$(GENMETA) experiment --data $(DATA) --learner $(LEARNER) $(if $(POLICY),--policy $(POLICY)) --generator $(GENERATOR) --redrawer $(REDRAWER) --seed $(SEED) $(ARGS)

explore: $(STAMP) ## look into a generator (CKPT=..., default: the newest): clusters, maps, walks between and beyond, a page
	$(GENMETA) explore $(if $(CKPT),--ckpt $(CKPT)) --tsne $(ARGS)

figures: $(STAMP) ## write the table of the quick start and the pictures beside it from an experiment (RUN=runs/<name>/<version>)
	@test -n "$(filter command,$(origin RUN))" || { echo "give RUN=runs/<name>/<version> of a finished make meta-train" >&2; exit 2; }
	$(BIN)/python scripts/figures.py $(RUN) $(ARGS)

report: RUN = $(patsubst %/results.json,%,$(shell ls -t runs/*/*/results.json 2>/dev/null | head -n 1))
report: $(STAMP) ## run folders (RUN=..., default: the newest experiment) as one page, report.html
	@test -n "$(RUN)" || { echo "nothing to report; make meta-train first, or give RUN=runs/<name>/<version>" >&2; exit 2; }
	$(GENMETA) report $(RUN) $(ARGS)

audit: $(STAMP) ## are the generated images of LEARNER and POLICY with CKPT fit to learn from? (default: the newest)
	$(GENMETA) audit --config configs/learner/$(LEARNER).yaml --config configs/data/$(DATA).yaml $(if $(POLICY),--config configs/policy/$(POLICY).yaml) $(if $(CKPT),--ckpt $(CKPT)) $(ARGS)

generator-ages: $(STAMP) ## one generator at several ages: its metrics against the accuracy of learners trained with it
	$(BIN)/python scripts/generator_ages.py $(if $(filter command,$(origin DATA)),--data $(DATA)) --out docs/generator-ages.md $(ARGS)

compare-learners: $(STAMP) ## train all learners on real tasks of DATA and write their table
	$(BIN)/python scripts/compare_learners.py --data $(DATA) --out docs/learners-$(DATA).md $(ARGS)

meta-test: $(STAMP) ## test the learner of RUN (a run folder; default: the newest mixed one) again
	@test -n "$(RUN)" || { echo "no run to test; make meta-train first, or give RUN=runs/<name>/<version>/mixed-seed0/fit" >&2; exit 2; }
	$(GENMETA) test --config $(RUN)/config.yaml --ckpt_path $(RUN)/checkpoints/best.ckpt --run.name meta-test --run.folder runs --run.version null $(ARGS)

challenge: $(STAMP) ## the Omniglot Challenge: RUNS (all_runs.zip or its folder), with the learner of RUN
	@test -n "$(RUNS)" || { echo "give RUNS=all_runs.zip (of the Omniglot release), or the folder in it" >&2; exit 2; }
	$(GENMETA) challenge --runs $(RUNS) $(if $(RUN),--ckpt $(RUN)/checkpoints/best.ckpt) $(ARGS)

compare: $(STAMP) ## arms x seeds of COMPARE (a YAML) on the same test episodes: what differs, how sure that is
	$(GENMETA) compare --config configs/compare/$(COMPARE).yaml $(ARGS)

record: $(STAMP) ## do learners that infer a deformation at meta-test pay? five seeds, an hour and a half on two cores (QUICK=1: one seed, 800 steps)
	$(GENMETA) compare --config configs/compare/record$(if $(QUICK),_quick).yaml $(if $(filter command,$(origin DATA)),--data $(DATA)) $(ARGS)

curves: $(STAMP) ## accuracy against the number of real OVER (classes, groups, images_per_class) that are trained on
	$(GENMETA) compare --config configs/compare/low_data_$(OVER).yaml $(ARGS)

compare-policies: $(STAMP) ## meta-train by all policies with three seeds (see docs/sampling_results.md)
	$(GENMETA) compare --config configs/compare/all_policies.yaml $(if $(filter command,$(origin DATA)),--data $(DATA)) $(ARGS)

bench-tasks: $(STAMP) ## what a step with generated classes costs
	$(BIN)/python benchmarks/generated_tasks.py $(ARGS)

bench-learners: $(STAMP) ## speed of a step of MAML and of ProtoNet beside learn2learn
	$(BIN)/python benchmarks/maml_step.py $(ARGS)
	$(BIN)/python benchmarks/protonet_step.py $(ARGS)

bench-sampling: $(STAMP) ## how fast episodes are made, beside learn2learn and easyfsl
	@$(BIN)/python -c 'import easyfsl' 2>/dev/null || $(BIN)/pip install --quiet --editable ".[bench]"
	$(BIN)/python benchmarks/sampling.py $(ARGS)

bench-generators: $(STAMP) ## speed of a GAN's step and of decoding
	$(BIN)/python benchmarks/gan_step.py $(ARGS)
	$(BIN)/python benchmarks/decoding.py $(ARGS)

dashboard: $(STAMP) ## build the W&B workspace and report (without an account: write what would be saved)
	$(BIN)/python scripts/dashboard.py $(ARGS)

sweep: $(STAMP) ## run a sweep (SWEEP=share, a YAML; CKPT=... a generator) here, on validation classes; --online in ARGS: on W&B
	$(BIN)/python scripts/sweep.py configs/sweep/$(SWEEP).yaml $(if $(CKPT),--generator $(CKPT)) --workers $(WORKERS) $(ARGS)

sync: $(STAMP) ## send W&B runs that were recorded offline
	$(BIN)/python scripts/sync.py $(ARGS)

bench-tracking: $(STAMP) ## what tracking costs of training
	$(BIN)/python benchmarks/tracking.py $(ARGS)

long-run: $(STAMP) ## 100,000 steps of a tiny learner: does memory, time of a step or a file grow? (half an hour on one core)
	$(BIN)/python benchmarks/long_run.py $(ARGS)

test: $(STAMP) ## the tests, of each kind one (seven minutes on two quiet cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

test-all: $(STAMP) ## the tests, slow ones included
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "" $(ARGS)

check: $(STAMP) docs ## lint, types, direction of imports, docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/project/test_imports.py

docs: $(STAMP) ## build the docs site into build/site; warnings, dead links and missing anchors are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: $(STAMP) ## show the docs site on this machine while you write
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

format: $(STAMP) ## format the code
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean: ## remove the virtual environment and caches (runs/ stays)
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
