package metrics

import (
	"io"
	"log/slog"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestHistogram(t *testing.T) {
	var h Histogram
	if !math.IsNaN(h.Quantile(0.5)) {
		t.Error("a quantile of nothing")
	}
	for _, d := range []time.Duration{-1, 50 * time.Microsecond, 51 * time.Microsecond, 3 * time.Millisecond} {
		h.Add(d)
	}
	count, seconds, buckets := h.Read()
	if count != 4 || math.Abs(seconds-0.003101) > 1e-9 || buckets[0.00005] != 2 || buckets[0.0001] != 3 || buckets[0.005] != 4 || buckets[5] != 4 {
		t.Errorf("%d, %v, %v", count, seconds, buckets)
	}
	if q := h.Quantile(0.5); q != 0.00005 {
		t.Errorf("median %v", q)
	}
	h.Add(time.Hour)
	if count, _, buckets := h.Read(); count != 5 || buckets[5] != 4 || !math.IsInf(h.Quantile(1), 1) {
		t.Errorf("%d, %v", count, buckets)
	}
	if n := testing.AllocsPerRun(100, func() { h.Add(time.Millisecond) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestServe(t *testing.T) {
	s, err := Serve("127.0.0.1:0", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]int{"/metrics": 200, "/": 404} {
		r, err := client.Get("http://" + s.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil || r.StatusCode != want || want == 200 && !strings.Contains(string(b), "go_goroutines ") {
			t.Errorf("%s: %d, %v, %d bytes", path, r.StatusCode, err, len(b))
		}
	}
	if again, err := Serve(s.Addr().String(), slog.New(slog.DiscardHandler)); err == nil {
		again.Close()
		t.Error("two servers at one address")
	}
}

func TestCheckAddress(t *testing.T) {
	for address, ok := range map[string]bool{"off": true, "127.0.0.1:1": true, ":1": true, "": false, "x": false} {
		if err := CheckAddress(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
}
