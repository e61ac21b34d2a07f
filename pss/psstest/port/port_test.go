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
		if seen[p] || p < lowest || p >= highest {
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
