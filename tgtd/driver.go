package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/iscsi"
)

// driverOptions are what --iscsi says: tgt's own three, and ours.
type driverOptions struct {
	portals               []string
	nopInterval, nopCount int
	unknown               []string // names that mean nothing; they are reported, and refuse nothing

	iscsi.Options // Logger and Directory come later
}

// maxDriverNumber is the largest number of an option of ours: of seconds, or of connections.
const maxDriverNumber = 1 << 20

// parseDriverOptions takes the text of --iscsi apart: portal=ADDR[:PORT], more of them with commas,
// nop_interval=SECONDS, nop_count=N. These are tgt's, which complains of nothing. Ours are
//
//	chap_md5=on|off          whether CHAP with MD5 is good enough
//	login_timeout=SECONDS    for a login from its beginning to its end
//	max_logins=N             connections in login at a time; a quarter of them from one address
//	max_connections=N        connections at a time
//	stall_timeout=SECONDS    after which an initiator that does not read is let go
//	async_logout=SECONDS     given to initiators to log out when their target ends; 0: they are not asked
//	text=on|off              text requests (SendTargets) in normal sessions, which tgt does not take
//
// and a wrong value refuses to start.
func parseDriverOptions(text string) (driverOptions, error) {
	var o driverOptions
	for token := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(token, "=")
		var err error
		switch name {
		case "portal":
			if value != "" {
				o.portals = append(o.portals, value)
			}
		case "nop_interval":
			o.nopInterval = atoi(value)
		case "nop_count":
			o.nopCount = atoi(value)
		case "chap_md5":
			var on bool
			on, err = driverSwitch(value)
			o.RefuseMD5 = !on
		case "text":
			o.SendTargetsInNormalSessions, err = driverSwitch(value)
		case "login_timeout":
			o.LoginTimeout, err = driverSeconds(value, 1)
		case "stall_timeout":
			o.StallTimeout, err = driverSeconds(value, 1)
		case "async_logout":
			o.LogoutGrace, err = driverSeconds(value, 0)
		case "max_logins":
			o.MaxLogins, err = driverNumber(value, 1)
		case "max_connections":
			o.MaxConnections, err = driverNumber(value, 1)
		default:
			if token != "" {
				o.unknown = append(o.unknown, token)
			}
		}
		if err != nil {
			return o, fmt.Errorf("--iscsi %s=%.80q: %w", name, value, err)
		}
	}
	return o, nil
}

func driverSwitch(value string) (bool, error) {
	switch value {
	case "on":
		return true, nil
	case "off":
		return false, nil
	}
	return false, errors.New("on or off is wanted")
}

func driverNumber(value string, least int) (int, error) {
	if n, err := strconv.ParseUint(value, 10, 32); err == nil && int(n) >= least && n <= maxDriverNumber {
		return int(n), nil
	}
	return 0, fmt.Errorf("a number from %d to %d is wanted", least, maxDriverNumber)
}

func driverSeconds(value string, least int) (time.Duration, error) {
	n, err := driverNumber(value, least)
	return time.Duration(n) * time.Second, err
}
