// Package auth proves that whoever speaks in a cell has the cell's key, and keeps what is said from
// everybody else. Connections are TLS 1.3 in which both sides prove the key; datagrams are sealed, each
// good once. Without a key file the cell is open: a nil *Keys, which every method here takes.
//
// # The key file
//
// The file cell.key lies beside server.conf (File). It holds one key or, while the key is being rolled,
// several: the first one signs, seals and dials, all are accepted. Format is drawn at Parse. Everything
// that is used is derived from a key's 32 random bytes with HKDF-SHA256, under a name of its own for each
// use: the key's public id, an Ed25519 key for TLS, a secret for datagrams.
//
// A key makes everybody who has it a full member: there is one key, not one for each server, so a
// holder may call itself any server. Who is who inside a cell is said in the greeting (package wire).
//
// # Connections
//
// Go's TLS has no external pre-shared keys. Two ways were left: a proof of the key, bound to the
// handshake by a TLS exporter, exchanged after a handshake between strangers; or certificates whose
// Ed25519 key is derived from the cell's key, so that TLS itself demands the proof. The second is built
// here, because it is sounder in the one respect that counts: no byte of an unproven caller gets out of
// the handshake, and no later change of our code can forget a step, since there is none.
//
// Why it holds: CertificateVerify (RFC 8446 4.4.3) signs the transcript, ephemeral keys included, so
// only a holder of the Ed25519 key can complete a handshake, and nobody in the middle can join two. The two
// sides sign under different context strings, so that both may have the same key pair and neither's
// signature can be played back as the other's. The public key is compared with those of the accepted keys in
// VerifyConnection; names, dates and chains of the certificate mean nothing, so no clock is involved.
// Tickets are off: every connection proves the key anew, and a key that was dropped ends the
// connections that it opened (Keys.Refresh). Recordings can't be opened with a key that leaks later: the
// key only signs, the secrets are ephemeral.
//
// What a stranger sees: that a server speaks TLS 1.3, and the public key, by which it could recognise the
// cell again, and from which nothing else follows: behind it are 32 random bytes and two one-way functions.
//
// Closing sends no close_notify: frames know their length, so a connection that is cut short is noticed,
// and whoever can cut it could cut it anyway. TLS as Go has it never changes a connection's keys; a connection
// ends after maxConnBytes, where the margin of AES-GCM is still wide (RFC 8446 5.5), and is made anew.
//
// # Datagrams
//
//	 0  u32  magic "PSSs"
//	 4  u8   version, 1
//	 5  u8   kind: 0 carries a datagram, 1 only introduces its sender
//	 6  u8   server that sent it, 255 for a tool
//	 7  u8   server it is meant for, 255 for a tool
//	 8  u32  id of the key
//	12       salt: 16 random bytes, drawn when the sender started
//	28  u64  counter: of the sender since then, from 1
//	36       sealed: u64 presented, u64 demanded, then the datagram (package wire)
//	-16      tag
//
// All integers are little-endian. Sealing is AES-256-GCM with the first 36 bytes as additional data; the key
// is derived from the cell's key, the salt and the sender, the nonce is the counter, so no pair ever
// repeats: salts don't, and a counter only goes forward. Sender and receiver are part of what is authenticated,
// so a datagram can't be sent back, or on to another server.
//
// A receiver keeps for each server the salt it goes by and a window of counters, and takes a
// counter once. That leaves the datagrams recorded under another salt, from before the sender or the
// receiver started: a new salt is believed only from a sender that presents the number the receiver
// demands, 64 random bits that are drawn anew whenever a salt was believed. Each datagram tells, sealed, the
// number its sender demands. A receiver that meets an unproven salt drops the datagram and introduces itself: it
// sends its own demand, presenting the one just read. The sender, if it lives, thereby learns what to
// present, and the next datagram is taken. So starting costs one round trip and one lost datagram, which
// agreement doesn't mind; no clock and nothing on disk is involved, so none can lock a server out. Introductions
// are never answered, and go to the sender's configured address, never to where a datagram claims to come from.
//
// The state is 8 windows, however much is sent. Tools have no state with a server: a question that is played
// back is answered again, with no more bytes than it had, and a tool knows the answer to its own question by the
// random stamp that the answer echoes.
package auth
