# Everything a developer runs. `make help` lists it.
.DEFAULT_GOAL := help
LINT := go tool -modfile=tools/go.mod golangci-lint

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Run the demo: three modules on a Postgres of its own
	go run ./cmd/demo

.PHONY: test
test: ## Run all tests
	go test ./...

.PHONY: race
race: ## Run all tests under the race detector, three times
	go test -race -count=3 -timeout=30m ./...

.PHONY: lint
lint: ## Check format, imports and the linters' rules
	$(LINT) fmt --diff
	$(LINT) run

.PHONY: fmt
fmt: ## Format the code
	$(LINT) fmt

.PHONY: faults
faults: ## Kill, freeze and cut off what runs ticks, and report (PROVIDER=native for River's own)
	go test ./adapters/river/faults -run='^TestFaults$$' -count=1 -faults -timeout=30m -v

.PHONY: soak
soak: ## Ten minutes of random faults, then ask the database (SEED=n to repeat one)
	go test ./adapters/river/faults -run='^TestSoak$$' -count=1 -soak=10m -seed=$(or $(SEED),0) -timeout=30m -v

.PHONY: fuzz
fuzz: ## Fuzz the cron parser, the check of data and the admin API, a minute each
	go test -run='^$$' -fuzz='^FuzzParseCron$$' -fuzztime=1m ./jobs/internal/cron
	go test -run='^$$' -fuzz='^FuzzData$$' -fuzztime=1m ./jobs
	go test -run='^$$' -fuzz='^FuzzDataText$$' -fuzztime=1m ./jobs
	go test -run='^$$' -fuzz='^FuzzTrigger$$' -fuzztime=1m ./jobs/jobshttp

.PHONY: bench
bench: ## Measure everytick beside River's own client, and print a table (SCALE=0.1 for a tenth)
	go test -run='^$$' -bench=. -skip=Scaling -benchtime=1x -count=1 -timeout=30m ./bench -scale=$(or $(SCALE),1)

.PHONY: bench-scaling
bench-scaling: ## Measure how it scales, and draw docs/scaling.svg (SCALE=0.1 for a tenth)
	go test -run='^$$' -bench=Scaling -benchtime=1x -count=1 -timeout=30m ./bench -scale=$(or $(SCALE),1) -svg='$(CURDIR)/docs/scaling.svg'

.PHONY: peers
peers: ## Run other job queues on the same work, in a quarter of an hour (bench/peers)
	cd bench/peers && go run .

.PHONY: screenshot
screenshot: ## Draw docs/status.png, the README's screenshot of the status page, in a real browser
	EVERYTICK_BROWSER=required go test ./cmd/demo -run='^TestStatusPage_InABrowser$$' -count=1 -update

.PHONY: api
api: ## Compare the public API with the last release in CHANGELOG; what breaks callers needs a heading Changed or Removed in CHANGELOG's [Unreleased]
	bash .ci/api

.PHONY: ci
ci: ## Run what CI runs
	bash .ci/run
