package replica

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// TestDashboards: every metric that the alert rules and the dashboard ask for is one that a server shows.
func TestDashboards(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil)
	descs := make(chan *prometheus.Desc, 100)
	h.servers[0].Collector().Describe(descs)
	close(descs)
	var names []string
	for d := range descs {
		names = append(names, regexp.MustCompile(`fqName: "([a-z_]+)"`).FindStringSubmatch(d.String())[1])
	}
	for _, file := range []string{"../../etc/prometheus/paxos-iscsi.rules.yml", "../../etc/grafana/paxos-iscsi.json"} {
		b, err := os.ReadFile(file)
		check(t, err)
		if strings.HasSuffix(file, ".json") && !json.Valid(b) {
			t.Errorf("%s is no JSON", file)
		}
		asked := regexp.MustCompile(`\bpss_[a-z_]+`).FindAllString(string(b), -1)
		if len(asked) < 5 {
			t.Errorf("%s asks for %q", file, asked)
		}
		for _, name := range asked {
			if !slices.Contains(names, strings.TrimSuffix(name, "_bucket")) {
				t.Errorf("%s asks for %s, which no server shows", file, name)
			}
		}
	}
}
