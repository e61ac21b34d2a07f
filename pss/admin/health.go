package admin

import "time"

// Space is the room on a server's disk.
type Space struct {
	Free     int64  `json:"free_bytes"`
	Total    int64  `json:"total_bytes"`
	Reserved int64  `json:"reserved_bytes"`
	Level    string `json:"level"` // good, low: the master knows, none: no entries are taken
}

// Scrub says how far the scrub is, and what it has found. It is kept over restarts.
type Scrub struct {
	Running      bool      `json:"running"`
	Started      time.Time `json:"started"`       // the one that runs, or ran last
	Finished     time.Time `json:"finished"`      // the last one that came to its end; zero: none
	Object       uint64    `json:"object"`        // where it is
	Chunk        uint32    `json:"chunk"`         // of the object
	CheckedBytes uint64    `json:"checked_bytes"` // by the one that runs, or ran last
	Damaged      uint64    `json:"damaged"`       // chunks with damaged blocks
	Unrepaired   uint64    `json:"unrepaired"`    // of them, that could not be repaired
	Different    uint64    `json:"different"`     // blocks that differed from those of other servers
	Replaced     uint64    `json:"replaced"`      // of them, this server's that were replaced
	RateLimit    int64     `json:"rate_limit"`    // bytes a second
}

// Repairs counts damage since the server started.
type Repairs struct {
	Found       uint64 `json:"found"`        // damaged blocks
	Repaired    uint64 `json:"repaired"`     // of them, repaired from other servers
	Failed      uint64 `json:"failed"`       // attempts to repair a chunk that left damaged blocks
	FailedReads uint64 `json:"failed_reads"` // reads of clients that were refused for it
}

// Refusals are a server's counts, since it started, of what it did not take.
type Refusals struct {
	Connections uint64 `json:"connections"` // that did not greet as they should, or did not prove the key
	Crowded     uint64 `json:"crowded"`     // closed because there were too many; also counted above if they had not greeted
	Idle        uint64 `json:"idle"`        // clients that said nothing for too long
	Datagrams   uint64 `json:"datagrams"`   // that were not sealed, not new, or none at all
}
