.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
# the local cluster needs no virtual environment: only a Python, 3.11 or newer
PYTHON ?= python3
VENV := .venv
LOCALCLUSTER := PYTHONPATH=tests $(PYTHON) -m localcluster
PYTEST := $(VENV)/bin/pytest
PURE_TESTS := tests/operator tests/contract tests/workloads
CLUSTER_TESTS := tests/cluster

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(VENV)/.made-from-pyproject ## make the virtual environment with everything for development
$(VENV)/.made-from-pyproject: pyproject.toml
	$(PYTHON) -c 'import ensurepip' || apt-get install --yes --quiet python3-venv  # Debian ships it apart
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet 'uv>=0.9,<1'  # half a minute where pip takes five: it resolves and unpacks faster
	$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --editable '.[dev]'
	touch $@

.PHONY: cluster
cluster: ## bring up a local Kubernetes cluster (kind, or a node of its own); prints what to eval
	@$(LOCALCLUSTER) up

.PHONY: cluster-down
cluster-down: ## stop the local cluster; fails if anything of it is left on the machine
	@$(LOCALCLUSTER) down

.PHONY: cluster-purge
cluster-purge: ## stop it, and remove its binaries, images and build caches
	@$(LOCALCLUSTER) purge

.PHONY: images
images: ## build both images into the local cluster, if their inputs changed
	@$(LOCALCLUSTER) images

.PHONY: generate
generate: venv ## write the CRDs, the reference page, the trainers' schemas and the gRPC messages anew
	$(VENV)/bin/python -m modelyard_operator.crds .
	$(VENV)/bin/python -m modelyard_workloads.config --schemas operator/modelyard_operator/training/schemas
	cd workloads && $(abspath $(VENV))/bin/python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. \
	  modelyard_workloads/serve/grpc_v2/inference.proto

.PHONY: lint
lint: venv ## ruff (rules and format) and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy operator workloads tests

.PHONY: test
test: ## all tests and lint; the cluster and the images are prepared meanwhile
	@PYTHON=$(PYTHON) tests/run.sh

.PHONY: test-pure
test-pure: venv ## the tests that need no cluster
	# a core for each, not all for all; two more than there are, since many wait for processes of their own;
	# nice, so that the processes that explain, which run only when nobody else wants to, have their turn beside them
	OMP_NUM_THREADS=1 nice -n 19 $(PYTEST) --numprocesses $$(( $$(getconf _NPROCESSORS_ONLN) + 2 )) --dist worksteal $(PURE_TESTS)

.PHONY: walks
walks: venv ## random courses of trainings and services through the operator's decisions, new ones each time (WALKS=5000)
	WALKS=$(or $(WALKS),5000) $(PYTEST) tests/operator/test_service_walks.py tests/operator/test_training_walks.py

.PHONY: faults
faults: venv cluster images ## kill the operator after every single write of two lives, before and after its answer
	eval "$$($(LOCALCLUSTER) env)" && $(PYTEST) $(CLUSTER_TESTS)/every_fault.py

.PHONY: faults-training
faults-training: venv cluster images ## break trainings in every way, many times; a table (ROUNDS=25, SEED=20, PROMISES=)
	eval "$$($(LOCALCLUSTER) env)" && ROUNDS=$(or $(ROUNDS),25) SEED=$(or $(SEED),20) PROMISES="$(PROMISES)" \
	  $(PYTEST) $(CLUSTER_TESTS)/faults/every_round.py

.PHONY: faults-serving
faults-serving: venv cluster images ## disturb services in every way while clients ask; what was lost (ROUNDS=20, DISTURBANCES=)
	eval "$$($(LOCALCLUSTER) env)" && ROUNDS=$(or $(ROUNDS),20) DISTURBANCES="$(DISTURBANCES)" \
	  $(PYTEST) $(CLUSTER_TESTS)/every_disturbance.py

.PHONY: samples
samples: venv cluster images ## train and serve everything under manifests/samples (STEPS=20 cuts the trainings short)
	eval "$$($(LOCALCLUSTER) env)" && STEPS="$(STEPS)" $(PYTEST) --capture no $(CLUSTER_TESTS)/every_sample.py

.PHONY: test-kueue
test-kueue: venv cluster ## gangs in queues of the real Kueue, built first (many minutes), on a cluster of this machine
	eval "$$($(LOCALCLUSTER) env)" && $(PYTEST) $(CLUSTER_TESTS)/every_queue.py

.PHONY: test-gateway
test-gateway: venv cluster images ## requests through the gateway of the real Traefik, built first (10 minutes), on a cluster of this machine
	eval "$$($(LOCALCLUSTER) env)" && $(PYTEST) --capture no $(CLUSTER_TESTS)/every_gateway.py

.PHONY: test-autoscalers
test-autoscalers: venv cluster images ## services scaled by the real KEDA and by the real metrics-server, built first (many minutes), on a cluster of this machine
	eval "$$($(LOCALCLUSTER) env)" && $(PYTEST) --capture no $(CLUSTER_TESTS)/every_autoscaler.py

.PHONY: test-cluster
test-cluster: venv cluster images ## the tests on the local cluster
	eval "$$($(LOCALCLUSTER) env)" && $(PYTEST) $(CLUSTER_TESTS)

.PHONY: bench-checkpoint
bench-checkpoint: venv ## how long a checkpoint stops the training, beside torch.save and DCP's async_save (MEGABYTES=400)
	PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_checkpoint.py --megabytes $(or $(MEGABYTES),400)

PEERS := .cache/bench-peers
PEER_ENVIRONMENTS := $(patsubst tests/bench/peers/%.txt,$(PEERS)/%/.made,$(wildcard tests/bench/peers/*.txt))
# an environment for each peer, since what they depend on conflicts; torch is ours, found behind their own packages
$(PEERS)/%/.made: tests/bench/peers/%.txt | $(VENV)/.made-from-pyproject
	test -x $(@D)/bin/pip || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --requirement $<
	packages='import sysconfig; print(sysconfig.get_path("purelib"))'; \
	  echo "import site; site.addsitedir('$$($(VENV)/bin/python -c "$$packages")')" \
	  > "$$($(@D)/bin/python -c "$$packages")/torch-of-the-project.pth"
	touch $@

.PHONY: bench-serve
bench-serve: venv $(PEER_ENVIRONMENTS) ## the server beside MLServer, KServe, LitServe and FastAPI (SECONDS=2, ROUNDS=3, ONLY=peers)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_serve.py --seconds $(or $(SECONDS),2) \
	  --rounds $(or $(ROUNDS),3) $(if $(ONLY),--only $(ONLY))

.PHONY: bench-cold-start
bench-cold-start: venv $(PEER_ENVIRONMENTS) ## from the start of a server's process to its first answer (ROUNDS=3)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_cold_start.py --rounds $(or $(ROUNDS),3)

.PHONY: bench-overload
bench-overload: venv ## ten times the requests that a server can answer, and how soon it is itself again (SECONDS=300)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_overload.py --seconds $(or $(SECONDS),300)

.PHONY: bench-router
bench-router: venv ## what the router adds to a request, as JSON lines (SECONDS=2, ROUNDS=3)
	@PYTHONPATH=tests:operator $(VENV)/bin/python tests/bench/bench_router.py --seconds $(or $(SECONDS),2) \
	  --rounds $(or $(ROUNDS),3)

.PHONY: bench-generate
bench-generate: venv ## tokens per second of text generation beside transformers, as JSON lines (ROUNDS=5)
	PYTHONPATH=tests:workloads OMP_NUM_THREADS=1 $(VENV)/bin/python tests/bench/bench_generate.py --rounds $(or $(ROUNDS),5)

.PHONY: bench-train
bench-train: venv ## the trainers beside what people run today, as JSON lines (ONLY=bert, gpt or resnet, ROUNDS=3)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_train.py --rounds $(or $(ROUNDS),3) $(if $(ONLY),--only $(ONLY))

.PHONY: bench-ddp
bench-ddp: venv ## what two ranks reach of twice one rank, as JSON lines (ONLY=gpt, bert, resnet or wide-deep, ROUNDS=15)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_ddp.py --rounds $(or $(ROUNDS),15) $(if $(ONLY),--only $(ONLY))

.PHONY: bench-decode-gpu
bench-decode-gpu: venv ## decoding on a GPU beside transformers and the memory's bandwidth, as JSON lines (SHAPES=1b,8b)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_decode_gpu.py --shapes $(if $(SHAPES),$(SHAPES),1b,8b)

.PHONY: bench-explain
bench-explain: venv ## latency of predictions beside explanations, as JSON lines (SECONDS=3, ROUNDS=5)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_explain.py --seconds $(or $(SECONDS),3) --rounds $(or $(ROUNDS),5)

.PHONY: bench-nanogpt
bench-nanogpt: venv ## causal-lm beside nanoGPT's recipe for a CPU: speed, and seconds to the same bits per byte (ROUNDS=3)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_nanogpt.py --rounds $(or $(ROUNDS),3)

.PHONY: bench-gpu
bench-gpu: venv ## the trainers on a GPU beside what people run there, as JSON lines (ONLY=gpt, ROUNDS=3)
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_gpu.py --rounds $(or $(ROUNDS),3) $(if $(ONLY),--only $(ONLY))

$(VENV)/.made-for-demo: pyproject.toml
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || apt-get install --yes --quiet python3-venv
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --editable '.[demo]'  # no torch: that is in the image
	@touch $@

.PHONY: demo
demo: ## from nothing to predictions: cluster, operator, a training, its service, and requests to it
	@began=$$(date +%s.%N); $(MAKE) --silent --no-print-directory $(VENV)/.made-for-demo; \
	DEMO_BEGAN=$$began PYTHONPATH=tests $(VENV)/bin/python -m demo up

.PHONY: demo-down
demo-down: $(VENV)/.made-for-demo ## remove what the demo made in the cluster; the cluster stays
	@PYTHONPATH=tests $(VENV)/bin/python -m demo down

.PHONY: bench-operator
bench-operator: venv ## N ModelTrainings at once until all run, beside N bare pods, as JSON lines (N=1000, ROUNDS=2)
	@PYTHONPATH=tests $(VENV)/bin/python tests/bench/bench_operator.py --objects $(or $(N),1000) --rounds $(or $(ROUNDS),2)

.PHONY: bench-compressors
bench-compressors: venv ## bits for each byte of the held-out documentation by gzip, xz and an n-gram model
	@PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/compressors.py

.PHONY: bench-recommendation
bench-recommendation: venv ## Wide & Deep beside a plain loop, samples a second, as a JSON line (SECONDS=5 for each turn)
	PYTHONPATH=tests:workloads $(VENV)/bin/python tests/bench/bench_recommendation.py --seconds $(or $(SECONDS),5)
