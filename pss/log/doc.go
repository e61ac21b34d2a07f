// Package log is the durable log of a server: numbered entries and the HardState of agreement, on
// preallocated files that are used again and again, so that an append is one write and one fdatasync
// without any work for the file system's journal. It knows no raft; it starts no goroutine.
//
// # Files
//
// The log is a folder of segments, NNNNNNNNNNNNNNNN.log, the segment's number in hexadecimal. Numbers
// are consecutive. The segments that are in use come first, then those that are ready to be used; a
// ready one is zeros, or still has the frames of the segment that its file was before. *.tmp is a
// segment in the making.
//
// # Bodies
//
// Data that has a Home need not lie in a segment: its whole blocks at the end may lie in a body, NNNNNNNNNNNNNNNN.body, a
// file of BodyBytes for the chunk that they belong to, where they belong in it. The blocks are written with the frame that
// has the rest and synced with it, and once only, so that whoever finds all of a chunk in one body need not write it again: he
// gives the file a second name (disk.FS.Link, see package store). The log keeps its name until no segment refers to
// the body. After Supersede, or if Options.Superseded says so, a body may be written to by its other owner: an entry
// that is not what it was any more is like one that was compacted away, with all before it (First). Any other change is
// damage, as in a segment.
//
// A body is made ready before it is needed, of a file that was a chunk's (Spare), since its space is allocated, or of
// a new one; its name is durable before anything that matters is written to it. Open adds to no body that it finds, and
// removes those that nothing refers to: it can't know whose they are.
//
// # Frames
//
// A segment is a sequence of frames, each at a multiple of 4096 bytes and filled up to one. A frame is
// what one Append made durable at once, and a block that was written is not written again before its
// file becomes another segment, but with the same bytes by Open. Integers are little-endian.
//
//	  0  u32  'P' 'L' 'F' and the version of the format: 1, or 2 if an entry has its end in a body
//	  4  u32  CRC32C of bytes 8 to 127: the frame's checksum
//	  8  u32  checksum of the frame before it, in this segment or the one before
//	 12  u32  CRC32C of the table
//	 16  u64  number of the segment
//	 24  u64  offset of the frame in the segment, in bytes
//	 32  u64  synced: everything in this segment below this offset was synced when the frame was written
//	 40  u64  epoch: how often the log was opened
//	 48  u32  size of the frame in bytes: header, table and data, without the filling
//	 52  u32  number of entries
//	 56  u32  flags: 1 reset, everything before is forgotten
//	 60  u32  0
//	 64  u64  index of the entry before the first one
//	 72  u64  its term
//	 80  u64  HardState: term
//	 88  u64  HardState: vote
//	 96  u64  HardState: commit
//	104  u64  identity of the log, random: no frame of another log, nor a client's data, passes for one of this
//	112  u64  version 2: the lowest number of a body in the table
//	120  u64  0
//	128       the table: for each entry
//	            0  u64  term
//	            8  u32  size of the data in bytes
//	           12  u32  CRC32C of the data
//	           16  u8   kind
//	           17       a byte 0
//	           18  u16  version 2: how many blocks of 4096 bytes at the end of the data lie in a body, 0 for none
//	           20  u16  the first of them in the body
//	           22  u16  the number of the body less the lowest one
//	          the data of all entries, as far as it is not in bodies, one after the other
//
// The checksum of a frame covers that of the table, the table those of the data, and the next frame
// repeats it: the chain covers every byte but the filling, and each byte is summed once. The header
// lies in one sector, so it is whole or it is not there. Every frame repeats the HardState and
// says what comes before its entries: any segment can be the oldest one.
//
// An entry whose index is not beyond the last one replaces the entries from there on.
//
// # Recovery
//
// Opening reads all frames in order. What ends a segment, and whether that is its end, the torn tail of
// a power cut, or damage, is decided by the tables in recovery.go. Damage is never cut off. Two rules
// make the decision possible:
//
//   - a segment is begun only when the one before it is synced. So each segment but the last must be
//     whole, which the checksum that the next one repeats proves;
//   - a frame says how far its segment was synced. So a bad frame below any such claim was once good.
//
// What can't be told from a torn tail is damage to the last frame before a power cut, since
// nothing after it vouches for it; and the loss of the newest segments' files. A clean Close leaves an
// empty frame that vouches for all before it, and so does every Open.
//
// Damage to segments whose entries a checkpoint has superseded (Options.Superseded) is healed: what is behind them
// can stand alone, as after Recycle, and each frame repeats the HardState, so that no vote is forgotten. All other
// damage is for the caller, who must neither vote nor acknowledge with such a log.
//
// After a power cut a frame may have survived behind one that did not. It must never become
// reachable when the gap is filled again. So Open begins with an empty frame of a new epoch, and syncs
// it, before anything else is written: whatever follows builds on a checksum that no earlier frame
// could have repeated. Before that it writes the frames once more that no later one says were synced: after a failed
// sync the operating system shows what is not on the disk, and a sync of what it holds for clean does nothing. So what
// Open found is durable when it returns, whatever the process before had written only.
package log
