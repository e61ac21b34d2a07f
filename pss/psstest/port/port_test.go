package port

import (
	"net"
	"strconv"
	"testing"
)

func TestFree(t *testing.T) {
	ports, err := Free(16)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range ports {
		if seen[p] || p < blocked || p >= highest {
			t.Errorf("%d in %v", p, ports)
		}
		seen[p] = true
	}
	l, err := net.Listen("tcp", net.JoinHostPort(Host, strconv.Itoa(ports[0])))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if IsFree("tcp", ports[0]) || !IsFree("udp", ports[0]) {
		t.Error("a TCP port that is taken is taken for TCP")
	}
}

// TestBlocks: all that one process is given is in blocks that another can't have, and they are used again when there are
// many.
func TestBlocks(t *testing.T) {
	const rounds = 2 * maxBlocks
	for range rounds {
		ports, err := Free(blockPorts - 1)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ports {
			if guard := p - p%blockPorts; p == guard || IsFree("tcp", guard) {
				t.Fatalf("port %d is of a block that nobody guards", p)
			}
		}
	}
	if n := len(own.blocks); n > maxBlocks {
		t.Fatalf("%d blocks", n)
	}
}
