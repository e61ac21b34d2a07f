// Package web serves the status page of a cell: one page, with nothing from elsewhere, that shows servers, volumes,
// clients, load and log lines as they are now. It only reads.
//
// Who may see it is whoever has the URL that the command prints: it carries a random token, which the first request
// turns into a cookie. It listens on loopback unless told otherwise. To the servers it talks like every tool, with
// the cell's key where there is one.
package web

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/subtle"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/paxos-iscsi/paxos-iscsi/pss/admin"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/survey"
	"github.com/paxos-iscsi/paxos-iscsi/pssctl/watch"
)

//go:embed page.html
var page []byte

// Named limits of the HTTP server.
const (
	maxViewers    = 64 // requests at the same time
	maxHeader     = 16 << 10
	answerTimeout = 15 * time.Second
	// stateAge is how long an answer is good for all who ask: many viewers are no more load than one.
	stateAge   = time.Second
	cookieName = "pss"
	tokenBytes = 16
)

// DefaultAddress is where the page is unless told otherwise.
const DefaultAddress = "127.0.0.1:8760"

// Command is pssctl web.
func Command() *cli.Command {
	return &cli.Command{Name: "web", Usage: "serve a status page for browsers, until interrupted", ArgsUsage: " ", HideHelpCommand: true,
		Flags: append(console.Flags(),
			&cli.StringFlag{Name: "listen", Value: DefaultAddress, Usage: "`HOST:PORT` of the page; the default is for this machine only"}),
		Action: func(c *cli.Context) error {
			if c.NArg() > 0 {
				return console.Usagef("web takes no arguments")
			}
			conf, err := console.Conf(c)
			if err != nil {
				return err
			}
			s, err := New(conf)
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", c.String("listen"))
			if err != nil {
				return fmt.Errorf("status page: %w", err)
			}
			fmt.Fprintf(c.App.Writer, "The status page is at %s\n", s.URL(l.Addr()))
			return s.Serve(c.Context, l)
		}}
}

// Server serves the page of one cell.
type Server struct {
	conf  *cell.Config
	token string
	slots chan struct{}

	mu    sync.Mutex
	watch *watch.Watcher
	taken time.Time
	state []byte
}

// New makes a server with a token of its own.
func New(conf *cell.Config) (*Server, error) {
	var b [tokenBytes]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("draw a token: %w", err)
	}
	w, err := watch.New(conf, "pssctl web")
	if err != nil {
		return nil, err
	}
	return &Server{conf: conf, token: hex.EncodeToString(b[:]), slots: make(chan struct{}, maxViewers), watch: w}, nil
}

// URL is the page's address, token included, for a listener's address.
func (s *Server) URL(a net.Addr) string { return fmt.Sprintf("http://%s/?token=%s", a, s.token) }

// Serve answers until ctx ends.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	h := &http.Server{Handler: s.handler(), ReadTimeout: answerTimeout, WriteTimeout: 2 * answerTimeout, IdleTimeout: time.Minute,
		MaxHeaderBytes: maxHeader}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		h.Close()
	})
	err := h.Serve(l)
	if !stop() {
		<-ended
	}
	s.watch.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return fmt.Errorf("status page: %w", err)
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.servePage)
	mux.HandleFunc("GET /state", s.serveState)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case s.slots <- struct{}{}:
			defer func() { <-s.slots }()
		default:
			http.Error(w, "too many viewers", http.StatusServiceUnavailable)
			return
		}
		h := w.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

// servePage turns the token of the URL into a cookie, so that it does not stay in the address line, and serves the
// page to those who have it.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	if t := r.URL.Query().Get("token"); t != "" {
		if !s.right(t) {
			http.Error(w, "the token is not right: pssctl web prints the address", http.StatusForbidden)
			return
		}
		http.SetCookie(w, &http.Cookie{Name: cookieName, Value: t, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode})
		// A redirect of the server's would not carry a strict cookie to a page opened from elsewhere.
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(page)
		return
	}
	if !s.admitted(r) {
		http.Error(w, "open the address that pssctl web printed", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_, _ = w.Write(page) // an error is the viewer's, who left
}

func (s *Server) right(token string) bool {
	return subtle.ConstantTimeCompare([]byte(token), []byte(s.token)) == 1
}

func (s *Server) admitted(r *http.Request) bool {
	c, err := r.Cookie(cookieName)
	return err == nil && s.right(c.Value)
}

func (s *Server) serveState(w http.ResponseWriter, r *http.Request) {
	if !s.admitted(r) {
		http.Error(w, "open the address that pssctl web printed", http.StatusForbidden)
		return
	}
	b, err := s.current(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(b)
}

// current is the state in JSON, taken anew when it is too old.
func (s *Server) current(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.taken) < stateAge {
		return s.state, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
	defer cancel()
	b, err := json.Marshal(s.look(ctx))
	if err != nil {
		return nil, fmt.Errorf("encode the state: %w", err)
	}
	s.state, s.taken = b, time.Now()
	return b, nil
}

// state is what the page shows.
type state struct {
	watch.View
	Log []logLine `json:"log"` // of all servers, the newest first
}

// logLine is a line of a server's log.
type logLine struct {
	Server cell.ID `json:"server"`
	admin.LogLine
}

// Limits of the lines the page shows.
const (
	linesOfEach = 20
	linesShown  = 60
)

func (s *Server) look(ctx context.Context) state {
	v := state{View: s.watch.Look(ctx), Log: []logLine{}}
	lines := make([][]logLine, len(v.Cell.Servers))
	var asking sync.WaitGroup
	for i, server := range v.Cell.Servers {
		if server.Status != nil {
			asking.Go(func() { lines[i] = s.lines(ctx, server.ID) })
		}
	}
	asking.Wait()
	for _, l := range lines {
		v.Log = append(v.Log, l...)
	}
	slices.SortFunc(v.Log, func(a, b logLine) int { return cmp.Compare(b.UnixNano, a.UnixNano) })
	v.Log = v.Log[:min(len(v.Log), linesShown)]
	return v
}

// lines are the last lines of a server's log; none if it does not answer any more.
func (s *Server) lines(ctx context.Context, id cell.ID) (lines []logLine) {
	ctx, cancel := context.WithTimeout(ctx, survey.AnswerTimeout)
	defer cancel()
	err := admin.With(ctx, s.conf, id, func(conn *admin.Conn) error {
		return conn.Stream(ctx, admin.MethodLog, admin.LogArgs{Last: linesOfEach}, func(item json.RawMessage) error {
			var l admin.LogLine
			if err := json.Unmarshal(item, &l); err != nil {
				return err
			}
			if l.Text != "" { // the last part is empty
				lines = append(lines, logLine{id, l})
			}
			return nil
		})
	})
	if err != nil {
		return nil
	}
	return lines
}
