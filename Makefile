# Commands for developers. `make help` lists them.
.DEFAULT_GOAL := help
LINT := go tool -modfile=tools/go.mod golangci-lint

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Run the demo: three modules on its own Postgres
	go run ./cmd/demo

.PHONY: test
test: ## Run all tests
	go test ./...

.PHONY: race
race: ## Run all tests under the race detector, three times
	go test -race -count=3 -timeout=30m ./...

.PHONY: lint
lint: ## Check formatting and imports, and run the linters
	$(LINT) fmt --diff
	$(LINT) run

.PHONY: fmt
fmt: ## Format the code
	$(LINT) fmt

.PHONY: faults
faults: ## Kill, freeze and disconnect processes, and report lost ticks (PROVIDER=native for River's own client)
	go test ./adapters/river/faults -run='^TestFaults$$' -count=1 -faults -timeout=30m -v
	go test ./adapters/river/faults -run='^TestOutage_RunsStayEnded$$' -count=1 -faults -timeout=30m -v

.PHONY: effects
effects: ## Kill, freeze and disconnect processes during transactional jobs and updates, and report lost and doubled effects
	go test ./adapters/river/faults -run='^TestEffects$$' -count=1 -effects -timeout=30m -v

.PHONY: soak
soak: ## Inject random faults for ten minutes, then check the database and look for leaks (SEED=n to repeat a run)
	go test ./adapters/river/faults -run='^TestSoak$$' -count=1 -soak=10m -seed=$(or $(SEED),0) -timeout=30m -v

.PHONY: crash
crash: ## Kill the database server 20 times under 50 callers, and report what was lost or doubled
	go test ./adapters/river/faults -run='^TestCrash$$' -count=1 -crash=20 -timeout=30m -v

.PHONY: failover
failover: ## Kill a primary under load and promote its standby, and report what was lost or doubled
	go test ./adapters/river/faults -run='^TestFailover$$' -count=1 -failover -timeout=30m -v

.PHONY: bouncer
bouncer: ## Run the conformance suite and faults through PgBouncer (package pgbouncer)
	go test ./adapters/river -run='PgBouncer|^TestBouncer' -count=1 -bouncer -timeout=30m -v

.PHONY: matrix
matrix: ## Run all tests that use a database on PostgreSQL 13 to 18 (VERSIONS="13 18" for some)
	bash .ci/matrix $(VERSIONS)

.PHONY: canary
canary: ## Run the tests of adapters/river with the newest River (reports; a failure is no fault of this version)
	bash .ci/canary

.PHONY: fuzz
fuzz: ## Check cron around every clock change of every zone; fuzz it, the data checks and the admin API, one minute each
	go test -run='Clock|Zone' -timeout=30m ./jobs/internal/cron -every
	go test -run='^$$' -fuzz='^FuzzParseCron$$' -fuzztime=1m ./jobs/internal/cron
	go test -run='^$$' -fuzz='^FuzzData$$' -fuzztime=1m ./jobs
	go test -run='^$$' -fuzz='^FuzzDataText$$' -fuzztime=1m ./jobs
	go test -run='^$$' -fuzz='^FuzzTrigger$$' -fuzztime=1m ./jobs/jobshttp
	go test -run='^$$' -fuzz='^FuzzAPI$$' -fuzztime=1m ./jobs/jobshttp

.PHONY: bench
bench: ## Compare everytick with River's own client and print a table (SCALE=0.1 for a tenth)
	go test -run='^$$' -bench=. -skip=Scaling -benchtime=1x -count=1 -timeout=30m ./bench -scale=$(or $(SCALE),1)

.PHONY: bench-scaling
bench-scaling: ## Measure scaling and draw docs/scaling.svg (SCALE=0.1 for a tenth)
	go test -run='^$$' -bench=Scaling -benchtime=1x -count=1 -timeout=30m ./bench -scale=$(or $(SCALE),1) -svg='$(CURDIR)/docs/scaling.svg'

.PHONY: peers
peers: ## Compare with other job queues, about 15 minutes (bench/peers)
	cd bench/peers && go run .

.PHONY: screenshot
screenshot: ## Take docs/status.png, the README's screenshot of the status page, in a real browser
	EVERYTICK_BROWSER=required go test ./cmd/demo -run='^TestStatusPage_InABrowser$$' -count=1 -update

.PHONY: alerts
alerts: ## Test docs/alerts.yml with promtool (package prometheus)
	promtool check rules docs/alerts.yml
	promtool test rules docs/alerts_test.yml

.PHONY: api
api: ## Compare the public API with the last release in CHANGELOG; breaking changes need Changed or Removed in its [Unreleased]
	bash .ci/api

.PHONY: ci
ci: ## Run everything that CI runs
	bash .ci/run
