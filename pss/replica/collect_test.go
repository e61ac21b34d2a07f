package replica

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestCollector: every figure is there, and named by Prometheus's conventions.
func TestCollector(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	v := h.volume(h.client(), 1<<20)
	v.write(3)
	m := h.master()
	c := h.servers[m].Collector()
	problems, err := testutil.CollectAndLint(c)
	check(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	for name, want := range map[string]int{"pss_is_master": 1, "pss_server_info": 1, "pss_member_active": 3, "pss_operation_duration_seconds": 2} {
		if n := testutil.CollectAndCount(c, name); n != want {
			t.Errorf("%s: %d, want %d", name, n, want)
		}
	}
	check(t, testutil.CollectAndCompare(c, strings.NewReader(
		"# HELP pss_is_master Whether this server is master.\n# TYPE pss_is_master gauge\npss_is_master{server=\""+string(rune('0'+m))+"\"} 1\n"), "pss_is_master"))
	if n := testutil.CollectAndCount(c, "pss_operations_total"); n < 2 {
		t.Errorf("no object is counted")
	}
}
