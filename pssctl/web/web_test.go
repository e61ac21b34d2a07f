package web

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/psstest"
)

var screenshots = flag.String("screenshots", "", "a folder to put pictures of the page into")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve runs the page for a cell.
func serve(t *testing.T, c *psstest.RealCell) (s *Server, url string) {
	t.Helper()
	s, err := New(c.Conf)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, s.URL(l.Addr())
}

func get(t *testing.T, client *http.Client, url string) (int, string, http.Header) {
	t.Helper()
	r, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b), r.Header
}

func TestAdmission(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2)
	_, url := serve(t, c)
	plain := strings.Split(url, "?")[0]
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, x := range []struct {
		url  string
		want int
	}{
		{plain, 403}, {plain + "state", 403}, {plain + "?token=x", 403}, {plain + "state?token=x", 403}, {plain + "nonsense", 404},
		{url, 200}, {plain, 200}, {plain + "state", 200},
	} {
		status, body, h := get(t, client, x.url)
		if status != x.want {
			t.Errorf("%s: %d, want %d", x.url, status, x.want)
		}
		if h.Get("Content-Security-Policy") == "" || h.Get("Cache-Control") != "no-store" || h.Get("X-Frame-Options") != "DENY" {
			t.Errorf("%s: headers %v", x.url, h)
		}
		if status == 403 && strings.Contains(body, "server") && strings.Contains(body, "{") {
			t.Errorf("%s: a stranger is told %s", x.url, body)
		}
	}
	r, err := client.Post(plain+"state", "text/plain", strings.NewReader("x"))
	if err != nil || r.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("POST: %v, %v", r, err)
	}
	r.Body.Close()
}

func TestState(t *testing.T) {
	c := psstest.StartReal(t, 0, 1, 2, 5)
	s, _ := serve(t, c)
	b, err := s.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var v state
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if v.Health != "all is well" || len(v.Cell.Servers) != 4 || len(v.Log) == 0 || v.Log[0].Text == "" {
		t.Errorf("%s", b)
	}
	again, err := s.current(t.Context())
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("asked twice in a moment: %v, another answer", err)
	}
}

// TestPageInABrowser opens the page in a real browser while the cell works, and looks for what must be on it. With
// -screenshots it leaves pictures to be looked at.
func TestPageInABrowser(t *testing.T) {
	browser, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("LEFT OUT: the status page in a browser: chromium is not installed")
	}
	c := psstest.StartReal(t, 0, 1, 2, 5)
	s, url := serve(t, c)
	client, err := pss.Open(c.Conf, pss.Options{Software: "tgtd 2.0.0"})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	for _, name := range []string{"vol001", "vol002"} {
		if err := client.CreateVolume(t.Context(), name, 1<<40); err != nil {
			t.Fatal(err)
		}
	}
	stop := work(t, client)
	defer stop()
	c.Stop(5)
	if _, err := s.current(t.Context()); err != nil { // rates are between two looks
		t.Fatal(err)
	}
	var dom string
	for tries := 0; tries < 5 && !strings.Contains(dom, "tgtd 2.0.0"); tries++ {
		dom = browse(t, browser, url, "--dump-dom")
	}
	for _, want := range []string{"erver 5 does not answer", "vol001", "vol002", "tgtd 2.0.0", "pssd_", "master is", "What to do", "1T"} {
		if !strings.Contains(dom, want) {
			t.Errorf("the page does not say %q:\n%s", want, dom)
		}
	}
	if *screenshots == "" {
		return
	}
	for name, options := range map[string][]string{
		"light.png": {"--window-size=1200,1100"},
		"dark.png":  {"--window-size=1200,1100", "--force-dark-mode", "--blink-settings=preferredColorScheme=0"},
		"phone.png": {"--window-size=500,1600"},
	} {
		browse(t, browser, url, append(options, "--screenshot="+filepath.Join(*screenshots, name))...)
	}
}

// work writes to vol001 until stop is called.
func work(t *testing.T, client *pss.Cell) (stop func()) {
	t.Helper()
	v, err := client.OpenVolume(t.Context(), "vol001")
	if err != nil {
		t.Fatal(err)
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	data := bytes.Repeat([]byte{7}, 16<<10)
	go func() {
		defer close(ended)
		for n := int64(0); ; n++ {
			done := make(chan struct{})
			r := &pss.Request{Op: pss.Write, Data: data, Offset: n % 1000 * int64(len(data)), Done: func(*pss.Request) { close(done) }}
			if n%3 == 0 {
				r.Op = pss.Read
			}
			v.Submit(r)
			<-done
			select {
			case <-quit:
				return
			default:
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
		v.Close()
	}
}

// browseTime is how long the browser looks at the page, by a clock that stands still while it waits for an answer.
const browseTime = 10 * time.Second

func browse(t *testing.T, browser, url string, options ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append([]string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
		"--user-data-dir=" + t.TempDir(), "--virtual-time-budget=" + jsonNumber(browseTime.Milliseconds())}, append(options, url)...)
	cmd := exec.CommandContext(ctx, browser, args...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, &errs)
	}
	return string(out)
}

func jsonNumber(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}
