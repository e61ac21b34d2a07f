package initiator

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
)

// maxRedirects is how often a login may be sent elsewhere.
const maxRedirects = 4

// movedForGood is the status detail of a permanent redirection (RFC 7143 11.13.5).
const movedForGood = 2

// redirected is a login that the target wants elsewhere.
type redirected struct {
	LoginError
	portal string
}

// Unwrap gives the refusal.
func (r *redirected) Unwrap() error { return &r.LoginError }

// where reads the TargetAddress of a redirection: host[:port][,tag], the host in brackets if it is IPv6
// (RFC 7143 13.8).
func where(address string) (string, error) {
	address, _, _ = strings.Cut(address, ",")
	if address == "" {
		return "", fmt.Errorf("%w: it sends us elsewhere and does not say where", ErrProtocol)
	}
	if host, port, err := net.SplitHostPort(address); err == nil && host != "" && port != "" {
		return address, nil
	}
	host := strings.TrimSuffix(strings.TrimPrefix(address, "["), "]")
	return net.JoinHostPort(host, "3260"), nil
}

// dialTarget logs in, wherever the target sends us. A permanent redirection is remembered in o. joins is as in conn.
func dialTarget(ctx context.Context, o *Options, isid [6]byte, cid uint16, joins *membership) (*conn, error) {
	at := *o
	for hops := 0; ; hops++ {
		c, err := dial(ctx, &at, isid, cid, joins)
		var r *redirected
		if !errors.As(err, &r) {
			return c, err
		}
		if hops == maxRedirects {
			return nil, fmt.Errorf("%w: more than %d redirections", err, maxRedirects)
		}
		at.Portal = r.portal
		if r.Detail == movedForGood {
			o.Portal = r.portal
		}
	}
}
