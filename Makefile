# `make` lists the targets. `make rehearse` and `make test` are the two commands of the README.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

STEPS   := $(notdir $(wildcard steps/*))
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
# The same source gives the same bytes, wherever it is built.
GOFLAGS_STATIC := -trimpath -buildvcs=false
# bump-config makes a handful of requests, one after the other: HTTP/1.1 is as good, and 0.4 MB smaller (docs/adr/0009).
TAGS_bump-config := nethttpomithttp2
LDFLAGS := -s -w -buildid= -X github.com/deepdesk/cloudbuild-steps/internal/step.version=$(VERSION)
TOOL    := go tool -modfile=tools/go.mod
CLUSTER ?= on

.PHONY: help
help: ## List the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: rehearse
rehearse: prepare binaries ## Play a release from commit to running pods on this machine (CLUSTER=off: stop before the deployment)
	@bin/rehearse play --cluster=$(CLUSTER)

.PHONY: test
test: prepare binaries ## Run all tests: unit, step programs, templates, images, and the whole rehearsal
	@go test -timeout 45m ./...

.PHONY: contract
contract: prepare ## Hold Artifact Registry to its contract: the tests' server, and Google's if ARTIFACT_REGISTRY_TEST_REPOSITORY names a repository
	@go test -v -count=1 -run '^TestContract$$' ./internal/artifactregistry

.PHONY: check
check: lint docs-check test ## What CI runs, and the linters: run it before you push

.PHONY: lint
lint: ## Check formatting, vet, golangci-lint, go.mod
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	@go vet ./...
	@$(TOOL) golangci-lint run ./...
	@go mod verify >/dev/null

.PHONY: vuln
vuln: ## Look for known vulnerabilities (needs the vulnerability database)
	@$(TOOL) govulncheck ./...

.PHONY: binaries
binaries: ## Build the static programs of all steps, and rehearse, into bin/
	@mkdir -p bin
	@$(foreach s,$(STEPS),echo "building bin/$(s)" >&2; \
	  CGO_ENABLED=0 go build $(GOFLAGS_STATIC) -tags '$(TAGS_$(s))' -ldflags '$(LDFLAGS)' -o bin/$(s) ./steps/$(s);)
	@go build $(GOFLAGS_STATIC) -o bin/rehearse ./cmd/rehearse

.PHONY: images
images: binaries ## Build the image of every step with a Docker engine (one is started when none runs)
	@images/build.sh $(VERSION) $(STEPS)

.PHONY: cluster
cluster: prepare binaries ## Start a Kubernetes control plane on loopback and print its KUBECONFIG; Ctrl-C ends it
	@bin/rehearse cluster

.PHONY: bench
bench: ## Run the benchmarks: against git, svu, go-git, crane and helm (into docs/benchmarks.md), then the packages' own
	@go run ./internal/rehearsal/versionbench -out docs/benchmarks.md
	@go run ./internal/rehearsal/tagbench -out docs/benchmarks.md
	@go run ./internal/rehearsal/deploybench -out docs/benchmarks.md
	@go test -run '^$$' -bench . -benchmem -count 6 ./internal/... ./steps/bump-config | tee bench.txt
	@$(TOOL) benchstat bench.txt

.PHONY: docs
docs: binaries ## Make the generated documents: the READMEs of the steps
	@for s in $(STEPS); do bin/$$s -describe=markdown > steps/$$s/README.md; done

.PHONY: docs-check
docs-check:
	@go test ./internal/rules

.PHONY: fmt
fmt: ## Format the source
	@gofmt -w $$(git ls-files '*.go')

.PHONY: clean
clean: ## Remove what was built here (the cache of test servers stays: see docs/adr/0005)
	@rm -rf bin bench.txt

# The tests use Debian's git (its HTTP backend), its ssh-keygen (git verifies signatures with it) and a Docker engine.
.PHONY: prepare
prepare:
	@tools/prepare.sh
