GO := scripts/go

.PHONY: help
help: ## list what there is to make
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: minicloud
minicloud: ## a whole cloud on this machine, with real virtual machines; ARGS="-exit" or "-help" (root)
	@scripts/install-deps minicloud
	@[ -e bin/minicloud ] || echo "building bin/minicloud, which takes a minute or two the first time"
	@CGO_ENABLED=0 $(GO) build -o bin/minicloud ./examples/minicloud
	@bin/minicloud $(ARGS)

# Clouds of several hosts with fifty virtual machines on one machine, which have it for themselves.
ALONE := ^TestThreeHosts

# Packages with virtual machines in their tests wait more than they compute, but two at once keep a machine of two cores busy.
.PHONY: test
test: ## all tests with nothing skipped, under the race detector (root)
	@scripts/install-deps test
	DEWPOINT_REQUIRE=all CGO_ENABLED=1 $(GO) test -race -count=1 -p 2 -timeout 30m -skip '$(ALONE)' ./...
	DEWPOINT_REQUIRE=all CGO_ENABLED=1 $(GO) test -count=1 -timeout 30m -run '$(ALONE)' ./examples/minicloud

.PHONY: bench
bench: ## every figure beside its peer; a line each in bench/results.jsonl (root)
	@scripts/install-deps test bench
	@mkdir -p bench && rm -f bench/results.jsonl
	DEWPOINT_REQUIRE=all DEWPOINT_BENCH="$(CURDIR)/bench/results.jsonl" \
		$(GO) test -run '^$$' -bench Peer -benchtime 1x -p 1 -timeout 30m ./...

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, builds for other systems
	@scripts/lint

.PHONY: fmt
fmt: ## rewrite the code as gofmt wants it
	@$(GO) fmt ./...
