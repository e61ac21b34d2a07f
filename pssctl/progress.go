package main

import (
	"fmt"
	"io"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pssctl/console"
)

// How often progress is shown: in place on a terminal, else as a line now and then.
const (
	terminalEvery = 200 * time.Millisecond
	lineEvery     = 10 * time.Second
)

// progress tells an operator that long work goes on: how many bytes, at which rate.
type progress struct {
	w        io.Writer
	terminal bool
	began    time.Time
	shown    time.Time
	any      bool
}

func newProgress(w io.Writer) *progress {
	now := time.Now()
	return &progress{w: w, terminal: isTerminal(w), began: now, shown: now}
}

// show tells how many bytes are done of a part.
func (p *progress) show(part string, bytes int64) {
	every := lineEvery
	if p.terminal {
		every = terminalEvery
	}
	now := time.Now()
	if now.Sub(p.shown) < every {
		return
	}
	p.shown, p.any = now, true
	rate := int64(float64(bytes) / now.Sub(p.began).Seconds())
	line := fmt.Sprintf("%s: %s, %s/s, %s", part, console.Bytes(bytes), console.Bytes(rate), console.Span(now.Sub(p.began)))
	if p.terminal {
		fmt.Fprintf(p.w, "\r\x1b[K%s", line)
	} else {
		fmt.Fprintln(p.w, line)
	}
}

// end leaves the line.
func (p *progress) end() {
	if p.terminal && p.any {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
