package target

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
	"github.com/paxos-iscsi/paxos-iscsi/tgtd/mgmt"
)

// Limits of redirect callbacks.
const (
	callbackTimeout  = time.Second // then the login goes on without a redirection
	callbackMaxBytes = 1024        // of its output; the rest is not read
	maxCallbacks     = 16          // at a time; further logins wait for one to end
)

// redirect is where a target sends its initiators (RFC 7143 11.13.5, class 1). Callback, when set, goes before
// the fixed address.
type redirect struct {
	address, port string
	reason        string // Temporary, Permanent or, until it is set, empty
	callback      string // program
}

// redirectFields are the names of the settings, which match as a prefix of what the operator wrote.
var redirectFields = [...]struct {
	name  string
	field func(*redirect) *string
}{
	{"RedirectAddress", func(r *redirect) *string { return &r.address }},
	{"RedirectPort", func(r *redirect) *string { return &r.port }},
	{"RedirectReason", func(r *redirect) *string { return &r.reason }},
	{"RedirectCallback", func(r *redirect) *string { return &r.callback }},
}

// set changes one setting. It returns mgmt.ErrInvalid for a name or a reason that is none.
func (r *redirect) set(name, value string) error {
	for _, f := range redirectFields {
		if !strings.HasPrefix(name, f.name) {
			continue
		}
		field := f.field(r)
		if field == &r.reason && value != "Temporary" && value != "Permanent" {
			return fmt.Errorf("%s %.80q is neither Temporary nor Permanent: %w", f.name, value, mgmt.ErrInvalid)
		}
		*field = value
		return nil
	}
	return fmt.Errorf("parameter %.80q: %w", name, mgmt.ErrInvalid)
}

// show is what show of one target prints in place of its parameters, empty when there is no redirection.
func (r *redirect) show() string {
	if r.callback != "" {
		return "RedirectCallback=" + r.callback + "\n"
	}
	if r.address == "" {
		return ""
	}
	reason := r.reason
	if reason == "" {
		reason = "Unknown"
	}
	return fmt.Sprintf("RedirectAddress=%s\nRedirectPort=%s\nRedirectReason=%s\n", r.address, r.port, reason)
}

// status is the login status of a reason.
func reasonStatus(reason string) iscsi.LoginStatus {
	switch reason {
	case "Temporary":
		return iscsi.TargetMovedTemp
	case "Permanent":
		return iscsi.TargetMovedPerm
	}
	return iscsi.LoginSuccess
}

// apply says whether and where to a peer that connected to local is sent: not when it is there
// already.
func (r *redirect) apply(local netip.Addr) (iscsi.LoginStatus, string) {
	status := reasonStatus(r.reason)
	if r.address == "" || status == iscsi.LoginSuccess {
		return iscsi.LoginSuccess, ""
	}
	host := strings.TrimSuffix(strings.TrimPrefix(r.address, "["), "]")
	if addr, ok := parseAddr(host); ok {
		if addr.Unmap() == local.Unmap().WithZone("") {
			return iscsi.LoginSuccess, ""
		}
		if addr.Is6() {
			host = "[" + host + "]"
		}
	}
	if r.port != "" {
		host += ":" + r.port
	}
	return status, host
}

// callback asks a redirect program: PROGRAM TARGET INITIATOR-ADDRESS prints ADDRESS:PORT:REASON. A program
// that fails, or says nothing sensible in time, redirects nobody.
func (m *Model) callback(program, name string, peer, local netip.Addr) (iscsi.LoginStatus, string) {
	m.callbacks <- struct{}{}
	defer func() { <-m.callbacks }()
	ctx, cancel := context.WithTimeout(context.Background(), callbackTimeout)
	defer cancel()
	out := &limitedBuffer{limit: callbackMaxBytes}
	cmd := exec.CommandContext(ctx, program, name, peer.Unmap().String())
	cmd.Stdout = out
	cmd.WaitDelay = callbackTimeout // for children that keep its output open
	if err := cmd.Run(); err != nil {
		m.log.Error("redirect callback failed", "program", program, "target", name, "peer", peer, "err", err)
		return iscsi.LoginSuccess, ""
	}
	r, ok := parseCallback(out.String())
	if !ok {
		m.log.Error("redirect callback printed no ADDRESS:PORT:REASON", "program", program, "target", name,
			"output", out.String())
		return iscsi.LoginSuccess, ""
	}
	return r.apply(local)
}

// parseCallback reads ADDRESS:PORT:REASON.
func parseCallback(out string) (redirect, bool) {
	line, _, _ := strings.Cut(out, "\n")
	rest, reason, ok := cutLast(strings.TrimSpace(line), ":")
	if !ok || reasonStatus(reason) == iscsi.LoginSuccess {
		return redirect{}, false
	}
	address, port, ok := cutLast(rest, ":")
	if !ok || address == "" {
		return redirect{}, false
	}
	return redirect{address: address, port: port, reason: reason}, true
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// limitedBuffer keeps the first bytes of what is written to it.
type limitedBuffer struct {
	bytes.Buffer
	limit int
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := b.limit - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}
