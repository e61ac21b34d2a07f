package admin

import (
	"strings"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/target"
)

// The parameter string of a request is NAME=VALUE pairs joined by commas; there is no quoting, so a
// comma ends a value wherever that is not said otherwise. tgtadm's own parameters come as
// "targetOps LIST," and "portalOps LIST,".

// nameValue cuts a string at its first equals sign.
func nameValue(params string) (name, value string, ok bool) {
	return strings.Cut(params, "=")
}

// pairs calls do with each pair of the list. Tokens without an equals sign are passed over: what follows a
// comma in a path is one.
func pairs(params string, do func(name, value string)) {
	for token := range strings.SplitSeq(params, ",") {
		if name, value, ok := nameValue(token); ok {
			do(name, value)
		}
	}
}

// lastValue finds the last pair with a name.
func lastValue(params, name string) (value string, found bool) {
	pairs(params, func(n, v string) {
		if n == name {
			value, found = v, true
		}
	})
	return value, found
}

// rest is all that follows the first occurrence of a mark anywhere in the string.
func rest(params, mark string) (string, bool) {
	_, after, ok := strings.Cut(params, mark)
	return after, ok
}

// rule takes the access rules of a bind or unbind apart. Each takes all the rest of the string, so an address
// before a name holds the name as well; configurations that were made that way are undone that way.
func rule(params string) target.Rule {
	var r target.Rule
	r.Address, r.HasAddress = rest(params, "initiator-address=")
	r.Name, r.HasName = rest(params, "initiator-name=")
	return r
}

// unitSpec takes the parameters of a new logical unit apart; the last of a name wins, other names are passed over.
func unitSpec(params string) target.UnitSpec {
	var s target.UnitSpec
	pairs(params, func(name, value string) {
		switch name {
		case "path":
			s.Path = value
		case "bstype":
			s.Store = value
		case "bsopts":
			s.Options = value
		case "bsoflags":
			s.Flags = value
		case "blocksize":
			s.BlockSize = value
		}
	})
	return s
}

// unitParams is the list of an update of a logical unit.
func unitParams(params string) string {
	return strings.TrimPrefix(params, "targetOps ")
}

// portals takes a list of portals apart: it begins at the first portal=, and every further portal may have that
// name or not. It returns false when there is no portal= at all.
func portals(params string) (list []string, ok bool) {
	after, ok := rest(params, "portal=")
	if !ok {
		return nil, false
	}
	for token := range strings.SplitSeq(after, ",") {
		if token = strings.TrimPrefix(token, "portal="); token != "" {
			list = append(list, token)
		}
	}
	return list, true
}

// passwordLen is the length of "password=", which is passed over without a look.
const passwordLen = len("password=")

// account takes a new account apart: the user ends at the first comma, what follows less nine bytes is the
// secret, commas included.
func account(params string) (user, secret string, ok bool) {
	after, ok := rest(params, "user=")
	if !ok {
		return "", "", false
	}
	user, secret, ok = strings.Cut(after, ",")
	if !ok {
		return "", "", false
	}
	return user, secret[min(passwordLen, len(secret)):], true
}

// systemSettings takes the settings of the system apart. It returns false when one has no equals sign.
func systemSettings(params string) (list []target.Setting, ok bool) {
	for token := range strings.SplitSeq(params, ",") {
		name, value, ok := nameValue(token)
		if !ok {
			return nil, false
		}
		list = append(list, target.Setting{Name: name, Value: value})
	}
	return list, true
}
