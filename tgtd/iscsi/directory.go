package iscsi

import (
	"net/netip"

	"github.com/paxos-iscsi/paxos-iscsi/tgtd/sam"
)

// Account is a CHAP name and secret.
type Account struct {
	User   string
	Secret string
}

// Accounts are what guards a target, or discovery: any of Incoming lets an initiator in; Outgoing,
// when its User is not empty, is what we prove ourselves with when the initiator asks.
type Accounts struct {
	Incoming []Account
	Outgoing Account
}

// Admission is the directory's answer to an initiator that named a target at login.
type Admission struct {
	Status   LoginStatus // LoginSuccess, or why not: TargetNotFound, TargetUnavailable, TargetMoved…
	Redirect string      // TargetAddress for a redirect: "ADDR:PORT", IPv6 in brackets
	TID      int
	Params   Params // what to negotiate from
	Accounts Accounts
	Target   sam.Target
}

// Directory is what the transport asks about targets. It is implemented by tgtd/target. All calls may
// be made from any goroutine, and none waits for the network.
type Directory interface {
	// Welcome says whether connections are taken at all: tgt closes them right after accept while
	// there is no target, or the system's State is offline.
	Welcome() bool
	// Discover lists the names of the targets that this peer may log in to, in order of creation.
	Discover(peer netip.AddrPort, initiator string) []string
	// DiscoveryAccounts guard discovery sessions.
	DiscoveryAccounts() Accounts
	// Admit answers a login to a target: existence, redirect, state, access rules, in tgt's order.
	Admit(target, initiator string, peer, local netip.AddrPort) Admission
}
