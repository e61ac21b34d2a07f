# make build   every program into bin/, statically linked
# make run     the main job on this machine: see README.md
# make test    every check and test; as root it installs the Debian packages it needs
# make bench   measures, beside the real tgt where that is installed

GO      ?= go
BIN     := bin
export CGO_ENABLED ?= 0
GOFLAGS ?= -trimpath
LDFLAGS := -s -w

PROGRAMS := $(BIN)/PFSserver $(BIN)/createISCSIVol $(BIN)/tgtd $(BIN)/tgtadm $(BIN)/tgt-admin

.PHONY: all build run test lint unit race fuzz sim e2e bench packages clean $(PROGRAMS)

all: build

build: $(PROGRAMS)

$(BIN)/PFSserver:      PKG := ./pss/server
$(BIN)/createISCSIVol: PKG := ./pssctl/createISCSIVol
$(BIN)/tgtd:           PKG := ./tgtd
$(BIN)/tgtadm:         PKG := ./tgtadm
$(BIN)/tgt-admin:      PKG := ./tgt-admin

$(PROGRAMS):
	$(GO) build $(GOFLAGS) -ldflags '$(LDFLAGS)' -o $@ $(PKG)

run: build
	$(GO) run ./packaging/quickstart

clean:
	rm -rf $(BIN)
