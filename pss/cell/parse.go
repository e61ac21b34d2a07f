package cell

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/paxos-iscsi/paxos-iscsi/pss/auth"
)

// Limits of a server.conf.
const (
	MaxLine = 4 << 10  // bytes of one line
	MaxFile = 64 << 10 // bytes of the whole file

	maxReported = 10 // bad lines one error lists
	maxHost     = 253
	maxLabel    = 63
)

// SyntaxError says what is wrong with a server.conf, and where.
type SyntaxError struct {
	File string
	Line int // from 1; 0 when it is about the file as a whole
	Text string
}

// Error is FILE:LINE: text.
func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Text)
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Text)
}

// Load reads a server.conf and the cell's key that goes with it (auth.File), if there is one. Errors are those of Parse
// and auth.Load, and of opening and reading the file.
func Load(file string) (*Config, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open the cell's configuration: %w", err)
	}
	defer f.Close()
	c, err := Parse(file, f)
	if err != nil {
		return nil, err
	}
	if c.Auth, err = auth.LoadBeside(file); err != nil {
		return nil, err
	}
	return c, nil
}

// Parse reads a server.conf; name stands for it in errors. A line is
//
//	id server path
//	id server udp_port tcp_port path
//
// where a # begins a comment and empty lines say nothing. Every bad line is reported, as a joined
// error of SyntaxErrors. Besides its lines, the cell is checked as a whole: ids and addresses are
// different, and there are MinCore core servers or more.
func Parse(name string, r io.Reader) (*Config, error) {
	p := parser{name: name}
	limited := &io.LimitedReader{R: r, N: MaxFile + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, MaxLine)
	for lines.Scan() {
		p.line++
		text, _, _ := strings.Cut(lines.Text(), "#")
		if fields := strings.Fields(text); len(fields) > 0 {
			p.record(fields)
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		p.line++
		p.fail("the line is longer than %d bytes", MaxLine)
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", name, err)
	case limited.N == 0:
		p.line = 0
		p.fail("longer than %d bytes", MaxFile)
	}
	return p.finish()
}

// parser collects the records of one server.conf.
type parser struct {
	name    string
	line    int
	servers []Server
	lines   [MaxServers]int // the line of each id, 0 where there is none
	errs    []error
}

func (p *parser) fail(format string, args ...any) {
	if len(p.errs) < maxReported {
		p.errs = append(p.errs, &SyntaxError{p.name, p.line, fmt.Sprintf(format, args...)})
	}
}

func (p *parser) record(fields []string) {
	s, err := parseRecord(fields)
	if err != nil {
		p.fail("%v", err)
		return
	}
	if first := p.lines[s.ID]; first != 0 {
		p.fail("id %d is on line %d already", s.ID, first)
		return
	}
	for _, t := range p.servers {
		if !strings.EqualFold(s.Host, t.Host) {
			continue
		}
		if s.UDPPort == t.UDPPort {
			p.fail("UDP port %d of %s belongs to id %d on line %d already", s.UDPPort, s.Host, t.ID, p.lines[t.ID])
			return
		}
		if s.TCPPort == t.TCPPort {
			p.fail("TCP port %d of %s belongs to id %d on line %d already", s.TCPPort, s.Host, t.ID, p.lines[t.ID])
			return
		}
	}
	p.lines[s.ID] = p.line
	p.servers = append(p.servers, s)
}

func (p *parser) finish() (*Config, error) {
	slices.SortFunc(p.servers, func(a, b Server) int { return cmp.Compare(a.ID, b.ID) })
	c := &Config{File: p.name, Servers: p.servers}
	if n := len(c.Core()); n < MinCore && len(p.errs) == 0 {
		p.line = 0
		p.fail("lists %d core servers (ids 0 to %d), and a cell has at least %d", n, CoreIDs-1, MinCore)
	}
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	return c, nil
}

func parseRecord(fields []string) (s Server, err error) {
	if len(fields) != 3 && len(fields) != 5 {
		return s, fmt.Errorf("%d columns where 3 (id server path) or 5 (id server udp_port tcp_port path) are wanted",
			len(fields))
	}
	if s.ID, err = ParseID(fields[0]); err != nil {
		return s, err
	}
	if s.Host, err = parseHost(fields[1]); err != nil {
		return s, err
	}
	s.UDPPort, s.TCPPort = FirstUDP+int(s.ID), FirstTCP+int(s.ID)
	if len(fields) == 5 {
		if s.UDPPort, err = parsePort("UDP", fields[2]); err != nil {
			return s, err
		}
		if s.TCPPort, err = parsePort("TCP", fields[3]); err != nil {
			return s, err
		}
	}
	dir := fields[len(fields)-1]
	switch {
	case !path.IsAbs(dir):
		return s, fmt.Errorf("path %q does not begin with a slash", dir)
	case strings.ContainsFunc(dir, unicode.IsControl):
		return s, fmt.Errorf("path %q has a control character", dir)
	}
	s.Path = path.Clean(dir)
	return s, nil
}

func parsePort(kind, s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%s port %q is not a number from 1 to 65535", kind, s)
	}
	return int(n), nil
}

// parseHost accepts an IPv4 or IPv6 address, the latter with or without brackets, and a host name.
// A name that ends in a number is a mistyped address (RFC 3696 2).
func parseHost(s string) (string, error) {
	bare := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		bare = s[1 : len(s)-1]
	}
	if a, err := netip.ParseAddr(bare); err == nil {
		a = a.Unmap()
		if a.IsUnspecified() || a.IsMulticast() || strings.ContainsFunc(a.Zone(), unicode.IsControl) {
			return "", fmt.Errorf("%s is not the address of a server", s)
		}
		return a.String(), nil
	}
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	for _, l := range labels {
		if !validLabel(l) {
			return "", fmt.Errorf("server %q is neither a host name nor an address", s)
		}
	}
	if len(s) > maxHost || strings.Trim(labels[len(labels)-1], "0123456789") == "" {
		return "", fmt.Errorf("server %q is neither a host name nor an address", s)
	}
	return s, nil
}

func validLabel(l string) bool {
	if l == "" || len(l) > maxLabel || l[0] == '-' || l[len(l)-1] == '-' {
		return false
	}
	for _, c := range []byte(l) {
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}
