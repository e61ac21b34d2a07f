// Package metrics shows what a daemon does to Prometheus: over HTTP, on loopback unless told otherwise.
package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Named limits of the HTTP server.
const (
	maxScrapes    = 4 // at the same time
	scrapeTimeout = 10 * time.Second
	maxHeader     = 8 << 10
)

// Off is the address that means: no metrics.
const Off = "off"

// CheckAddress says what is wrong with an address to serve metrics at: host:port, or Off.
func CheckAddress(address string) error {
	if address == Off {
		return nil
	}
	if _, _, err := net.SplitHostPort(address); err != nil {
		return fmt.Errorf("%q is no address for metrics: host:port or %s is wanted: %w", address, Off, err)
	}
	return nil
}

// Server serves metrics until it is closed.
type Server struct {
	http *http.Server
	done chan struct{}
	addr net.Addr
}

// Serve shows what a collector collects, and the process's own figures, at http://address/metrics.
func Serve(address string, logger *slog.Logger, c ...prometheus.Collector) (*Server, error) {
	r := prometheus.NewRegistry()
	c = append(c, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	for _, one := range c {
		if err := r.Register(one); err != nil {
			return nil, fmt.Errorf("metrics: %w", err)
		}
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout}))
	s := &Server{done: make(chan struct{}), addr: l.Addr(), http: &http.Server{Handler: mux, ReadTimeout: scrapeTimeout,
		WriteTimeout: 2 * scrapeTimeout, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug)}}
	go func() {
		defer close(s.done)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			logger.Warn("metrics are not served any more", "error", err)
		}
	}()
	return s, nil
}

// Addr is where the metrics are.
func (s *Server) Addr() net.Addr { return s.addr }

// closeTimeout is how long Close waits for a scrape under way.
const closeTimeout = time.Second

// Close ends the server, and returns when its goroutine has ended.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	<-s.done
	return err
}
