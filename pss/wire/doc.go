// Package wire is how the parties of a cell talk: frames on the TCP port of a server, between
// clients and servers and between servers, and datagrams on its UDP port. It turns messages into
// bytes and back, checks every length against a named limit before it allocates, and knows nothing
// of what the messages mean.
//
// # Frames
//
// A connection carries frames in both directions. The dialler's first frame is Hello, the
// listener's is HelloReply, or Goodbye with a reason. A server that dialled another then says with Member
// which cell it is of. All integers are little-endian.
//
//	 0  u32  size of the body in bytes, header not included
//	 4  u8   kind
//	 5  u8   version, 1
//	 6  u16  code: what the kind says, an op.Errno in answers
//	 8  u64  tag: chosen by the asker, echoed in the answer
//	16  u32  sealed: so many leading bytes of the body are covered by the sum
//	20  u32  sum: CRC32C of these
//	24  u32  reserved, 0
//	28  u32  CRC32C of bytes 0 to 27
//	32       body
//
// The bytes after the sealed part carry their own protection: an operation has its header's
// checksum and its block sums (package op), the data of a ReadReply has the block sums in its
// sealed part, and so have the entries of a raft message that are operations.
//
// A connection that fails a check is of no further use: its reader can't tell where the next frame
// starts. The party that noticed closes it.
//
// # Datagrams
//
//	 0  u32  magic "PSSd"
//	 4  u8   version, 1
//	 5  u8   kind
//	 6  u8   server that sent it, 255 for anybody else
//	 7  u8   server it is meant for
//	 8  u64  stamp: the sender's clock, in its own unit
//	16  u64  echo: the stamp of the datagram that this one answers, or 0
//	24  u64  cell: the tag of the sender's cell, in a raft message; else 0
//	32       body
//	-4  u32  CRC32C of everything before
//
// A Reader and a Writer work on any net.Conn, and datagrams are plain byte slices, so that
// encryption is put under both (package auth).
package wire
