// Package mgmt speaks the management protocol of tgt: the binary requests that tgtadm sends to the
// daemon over a UNIX socket and the daemon's answers, compatible to the byte with tgt 1.0.30 and later.
// It holds the codec, the error numbers, the client's Call and the daemon's Server, and knows nothing
// of what a request means: that is package tgtd/mgmt/admin.
//
// One exchange is one connection: the client sends a header of 120 bytes and the parameter string,
// the server answers with a header of 8 bytes and a text, and both close. Integers are in the byte
// order of the host, since both ends share one.
package mgmt
