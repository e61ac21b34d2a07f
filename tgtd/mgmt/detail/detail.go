// Package detail is an addition to tgt's management protocol: what a daemon was told and tgt's own
// answers do not repeat, the secrets of accounts and what units were made with. A configuration can be
// saved, and compared with a file, by nothing less. It is asked for by `show system` with Ask as the
// parameter string; tgt's own daemon does not look at parameters there and answers as ever, which
// Decode tells from a detail. Whoever may ask may do anything else on the management socket as well.
package detail

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Ask is the parameter string of the request.
const Ask = "paxos-iscsi-configuration"

// version is raised when the meaning of a field changes; fields may be added without.
const version = 1

// ErrNone says that the daemon does not have this addition.
var ErrNone = errors.New("the daemon does not tell its whole configuration")

// Configuration is the whole configuration of a daemon but for what `show system` and
// `show portal` tell.
type Configuration struct {
	Version   int       `json:"version"`
	Accounts  []Account `json:"accounts"` // oldest first
	Discovery Binding   `json:"discovery"`
	Targets   []Target  `json:"targets"` // by number
}

// Account is a CHAP account.
type Account struct {
	User   string `json:"user"`
	Secret string `json:"secret"`
}

// Binding is the accounts bound to a target or to discovery.
type Binding struct {
	Incoming    []string `json:"incoming"` // in order of binding
	Outgoing    string   `json:"outgoing"`
	HasOutgoing bool     `json:"hasOutgoing"`
}

// Target is one target.
type Target struct {
	TID       int      `json:"tid"`
	Name      string   `json:"name"`
	Accounts  Binding  `json:"accounts"`
	ByAddress []string `json:"byAddress"` // rules, in order of binding
	ByName    []string `json:"byName"`
	// Params are NAME=VALUE as `show target` with a number prints them, and after them the redirection
	// where there is one.
	Params []string `json:"params"`
	Units  []Unit   `json:"units"` // by number, without the controller
}

// Unit is what a logical unit was made with, as typed; empty means the default.
type Unit struct {
	LUN       uint64 `json:"lun"`
	Device    uint32 `json:"device"` // mgmt.DeviceType
	Path      string `json:"path"`
	Store     string `json:"store"`
	Options   string `json:"options"`
	Flags     string `json:"flags"`
	BlockSize string `json:"blockSize"`
	// Params are the parameters NAME=VALUE it was updated with and that still count, oldest first; those of
	// a changer's slots are lists.
	Params []string `json:"params"`
	// Unsure says that an update failed half way, or that there were more than are kept: Params may lack
	// something.
	Unsure bool `json:"unsure"`
}

// Encode returns the answer's text.
func Encode(c Configuration) (string, error) {
	c.Version = version
	b, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encoding the configuration: %w", err)
	}
	return string(b), nil
}

// Decode reads an answer. It returns ErrNone for that of a daemon without the addition, and an error
// for an answer that is damaged or of a later version.
func Decode(text string) (Configuration, error) {
	var c Configuration
	if !strings.HasPrefix(text, "{") {
		return c, ErrNone
	}
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		return Configuration{}, fmt.Errorf("reading the daemon's configuration: %w", err)
	}
	if c.Version != version {
		return Configuration{}, fmt.Errorf("reading the daemon's configuration: version %d, %d is known",
			c.Version, version)
	}
	return c, nil
}
