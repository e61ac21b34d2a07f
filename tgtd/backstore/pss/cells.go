package pss

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/pss"
	"github.com/paxos-iscsi/paxos-iscsi/pss/cell"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/backstore"
)

// FromConf returns the function that Type takes: it opens a client of the cell that a server.conf
// describes.
func FromConf(o pss.Options) func(conf string) (*pss.Cell, error) {
	return func(conf string) (*pss.Cell, error) {
		c, err := cell.Load(conf)
		if err != nil {
			return nil, err
		}
		return pss.Open(c, o)
	}
}

// cells are the clients in use, one for each server.conf, so at most one for each unit.
type cells struct {
	open func(conf string) (*pss.Cell, error)
	mu   sync.Mutex
	used map[string]*shared
}

type shared struct {
	cell  *pss.Cell
	units int
}

// get returns the client of the cell that conf describes, and what to call when it is no longer needed.
func (p *cells) get(conf string) (*pss.Cell, func() error, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.used[conf]
	if s == nil {
		c, err := p.open(conf)
		if err != nil {
			return nil, nil, err
		}
		s = &shared{cell: c}
		p.used[conf] = s
	}
	s.units++
	return s.cell, func() error { return p.put(conf, s) }, nil
}

func (p *cells) put(conf string, s *shared) error {
	p.mu.Lock()
	s.units--
	last := s.units == 0
	if last {
		delete(p.used, conf)
	}
	p.mu.Unlock()
	if !last {
		return nil
	}
	return s.cell.Close()
}

// options are what --bsopts says.
type options struct {
	conf    string
	timeout time.Duration
	shared  bool
}

// maxTimeout keeps the arithmetic with durations far from overflowing.
const maxTimeout = 365 * 24 * time.Hour

func parseOptions(text string) (o options, err error) {
	for word := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == ';' }) {
		key, value, _ := strings.Cut(word, "=")
		switch {
		case key == "conf" && value != "":
			o.conf = value
		case key == "timeout":
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil || time.Duration(n)*time.Second > maxTimeout {
				return o, fmt.Errorf("%w: timeout=%q is no number of seconds", backstore.ErrOption, value)
			}
			o.timeout = time.Duration(n) * time.Second
		case key == "shared" && (value == "0" || value == "1"):
			o.shared = value == "1"
		default:
			return o, fmt.Errorf("%w: %q; the pss store knows conf=FILE, timeout=SECONDS and shared=0|1", backstore.ErrOption, word)
		}
	}
	return o, nil
}
