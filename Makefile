# make help lists the targets.

GO          ?= go
BENCH_FOR   ?= 1s
BENCH_REPEATS ?= 5
BENCH_ONLY  ?=
FUZZ_BUDGET ?= 240
FUZZ_MOST   ?= 15
FUZZ_ONLY   ?= .
PERF_PARTS  ?=
SOAK_HOURS  ?= 8
SOAK_SEED   ?=
RAFTBENCH_FOR ?= 3s
RAFTBENCH_ONLY ?=
MEASURE_BYTES ?= 1073741824

.DEFAULT_GOAL := help
.PHONY: help build test race invariants lint fuzz bench campaign raftbench performance soak ci cover clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## compile everything
	$(GO) build ./...

test: ## the tests, as README.md shows them
	$(GO) test ./...

race: ## the tests under the race detector, with invariant checks
	$(GO) test -race -short -timeout 40m ./...

invariants: ## the tests with invariant checks, without the race detector
	$(GO) test -tags invariants ./...

lint: ## gofmt, go vet, go mod tidy and staticcheck
	.ci/run tools format vet lint

fuzz: ## every fuzz target; FUZZ_BUDGET=seconds in all, FUZZ_MOST=seconds for one, FUZZ_ONLY=regexp
	.ci/fuzz $(FUZZ_BUDGET) $(FUZZ_MOST) '$(FUZZ_ONLY)'

bench: ## the table of benchmarks against the bare engine; BENCH_FOR=1s BENCH_REPEATS=5 BENCH_ONLY=regexp
	.ci/bench $(BENCH_FOR) $(BENCH_REPEATS) '$(BENCH_ONLY)'

campaign: ## clusters under faults, in one process and in three
	.ci/run campaign

raftbench: ## three processes with replicated shards; RAFTBENCH_FOR=3s RAFTBENCH_ONLY=regexp MEASURE_BYTES=n
	$(GO) test ./replication -run '^TestRaftBench$$' -v -timeout 30m -raftbench -raftbenchfor $(RAFTBENCH_FOR) -raftbenchonly '$(RAFTBENCH_ONLY)'
	$(GO) test ./internal/harness -run '^TestMeasureCluster$$' -v -timeout 30m -measure -measurebytes $(MEASURE_BYTES)

performance: ## what docs/performance.md quotes; PERF_PARTS='solo raft cluster transactions scale'
	.ci/performance $(PERF_PARTS)

soak: ## clusters under faults for SOAK_HOURS=8, with seeds from SOAK_SEED=n on; totals at the end
	.ci/soak $(SOAK_HOURS) $(SOAK_SEED)

ci: ## what every change has to pass
	.ci/run

cover: ## test coverage by package and function, into coverage.out
	$(GO) test -short -coverprofile coverage.out ./...
	$(GO) tool cover -func coverage.out | tail -1

clean: ## remove what the targets leave behind
	rm -rf bin coverage.out soak-*
