# make build   every program into bin/, statically linked
# make run     the main job on this machine: see README.md
# make test    every check and test; as root it installs the Debian packages it needs
# make deb     the Debian packages into dist/;  make rpm: the RPMs
# make test-packages    checks both with lintian, rpmlint and systemd, makes them again and compares, installs them in roots
#                       of their own and goes through the manual with them, to the letter; needs root
# make bench   measures, beside the real tgt where that is installed

GO      ?= go
BIN     := bin
export CGO_ENABLED ?= 0
# For every call of go: what one compiles the others find in the cache, wherever the tree is.
export GOFLAGS ?= -trimpath
LDFLAGS := -s -w

PROGRAMS := $(BIN)/PFSserver $(BIN)/pssctl $(BIN)/PFSClient $(BIN)/PFSProbe $(BIN)/PSSAdmin $(BIN)/PSSShutdown \
	$(BIN)/createISCSIVol $(BIN)/extendISCSIVol $(BIN)/deleteISCSIVol $(BIN)/tgtd $(BIN)/tgtadm $(BIN)/tgtimg $(BIN)/tgt-admin $(BIN)/tgt-setup-lun

.PHONY: all build run test tools lint unit race fuzz sim e2e chaos bench deb rpm test-packages clean $(PROGRAMS)

all: build

build: $(PROGRAMS)

$(BIN)/PFSserver:      PKG := ./pss/server
$(BIN)/pssctl:         PKG := ./pssctl
$(BIN)/PSSAdmin:       PKG := ./pssctl/PSSAdmin
$(BIN)/PFSProbe:       PKG := ./pssctl/PFSProbe
$(BIN)/PSSShutdown:    PKG := ./pssctl/PSSShutdown
$(BIN)/PFSClient:      PKG := ./pssctl/PFSClient
$(BIN)/extendISCSIVol: PKG := ./pssctl/extendISCSIVol
$(BIN)/deleteISCSIVol: PKG := ./pssctl/deleteISCSIVol
$(BIN)/createISCSIVol: PKG := ./pssctl/createISCSIVol
$(BIN)/tgtd:           PKG := ./tgtd
$(BIN)/tgtadm:         PKG := ./tgtadm
$(BIN)/tgtimg:         PKG := ./tgtadm/tgtimg
$(BIN)/tgt-admin:      PKG := ./tgt-admin
$(BIN)/tgt-setup-lun:  PKG := ./tgt-admin/tgt-setup-lun

$(PROGRAMS):
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ $(PKG)

run: build
	$(GO) run ./packaging/quickstart

bench: build
	$(GO) run ./packaging/bench $(BENCH)

# Everything, cheapest first. What it leaves out for want of a package or of root it says, and says again at the end.
test: tools lint unit race fuzz sim-beside-e2e chaos
	@packaging/tools left-out

# The end-to-end tests wait, and the simulator computes: it has what they leave of the processors. Each one's output comes
# when it is through.
.PHONY: sim-beside-e2e
sim-beside-e2e:
	$(MAKE) -j2 --output-sync=target sim e2e SIM_NICE=19

# The Debian packages that lint and the end-to-end tests use.
tools:
	@packaging/tools install

lint:
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "gofmt: $$out"; exit 1; }
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) tool -modfile=tools.mod staticcheck ./...
	packaging/lint-scripts

# The end-to-end tests and the simulator's long run have targets of their own. Vetting is lint's. Twice as many packages as
# there are processors, as many of them wait.
unit:
	$(GO) test -vet=off -p $$((2 * $$(nproc))) $$($(GO) list ./... | grep -v -e /packaging/e2e -e /packaging/roots)

# Packages in which goroutines meet. The store's long tests are left out in which nothing does, and with -short what drives
# programs that are built without the detector. Fewer of the cells that wait run side by side, as they compute more.
race:
	CGO_ENABLED=1 $(GO) test -race -vet=off -short -parallel 4 -skip '^Test(PowerCut|InstallPowerCut|Failure)$$' \
		./pss ./pss/auth ./pss/ask ./pss/wire ./pss/replica ./pss/store ./pss/log ./pss/daemon ./pss/metrics ./pss/server \
		./pssctl ./pssctl/survey ./pssctl/watch ./pssctl/web ./packaging/verify ./tgtd/...

# Each fuzz target for a while; FUZZTIME=5m for a long run.
FUZZTIME ?= 3s
fuzz:
	@packaging/fuzz $(FUZZTIME)

# Seeds of the simulator in two processes; SEEDS=100000 FIRST=1 for a long run.
SEEDS ?= 10000
FIRST ?= 1000000
SIM_NICE ?= 0
sim:
	@nice -n $(SIM_NICE) packaging/simulate $(FIRST) $(SEEDS)

# One after the other, since they measure pauses; but all units of the conformance suite at the same time.
e2e: build
	$(GO) test -count=1 -timeout 15m -parallel 8 -v ./packaging/e2e

deb:
	packaging/make-deb

rpm:
	packaging/make-rpm

test-packages:
	$(GO) test -count=1 -timeout 20m -v ./packaging/roots

# Faults of every class on a cell of real processes in network namespaces, under a verifying load; as root.
# CHAOS="--time 20m --seed 7" for a long run, CHAOS=wan for the table of cells across data centres.
CHAOS ?= --time 2m
chaos: build
	@packaging/chaos/run $(CHAOS)

clean:
	rm -rf $(BIN) dist
