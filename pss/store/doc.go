// Package store keeps what a replica has on disk besides the log: the block data of objects
// (volumes and files), a checksum and an identity for each block, and the checkpoint that says
// which entry of the log all of it stands for. Changes are gathered in memory, in an overlay that
// refers to the log entries' own buffers; a flush writes the newest version of each changed block
// to the chunk files and then moves the checkpoint. Names, sizes and sessions are not its matter:
// they are opaque bytes (Meta) kept in the checkpoint.
//
// # On disk
//
//	checkpoint                   what the chunk files stand for; see checkpoint.go
//	prepared                     the checkpoint that is being moved to
//	data/<object>-<label>/       one folder an object, <object> in 16 hex digits
//	  index                      one record a chunk, see index.go
//	  pages                      a sum for each page of records, see index.go
//	  aa/bb/cc                   chunk aabbcc (hex): 4 MiB of plain bytes, sparse
//	  aa/bb/sums                 for each of the 256 chunks of the folder 1024 records, see record.go
//	staging/<object>/            chunks on their way in from another server, see staging.go
//	discarded-<n>/               what was staged in vain, until it is removed
//	spare-<n>, adopt-<n>         files that change their names during a flush, see bodies.go
//
// Folders are named after the number of an object, which is never reused, and the label given at
// its creation, so that no rename or deletion can be half done on disk. The tree that users see is
// part of Meta.
//
// # Crash rule
//
// The chunk files are exactly the state at the checkpoint's entry until `prepared` exists, so that
// replaying the log from the checkpoint meets exactly the old content: partial writes and
// compare-and-write come to the same result as the first time. A flush therefore goes
//
//  1. Freeze: the overlay becomes the frozen one, and a new one begins;
//  2. write `prepared` under another name: the new checkpoint and the list of all changed blocks,
//     each with its checksum and either its bytes or the place of its bytes in the log; sync it,
//     rename it, sync the folder;
//  3. write chunk files, sums and indexes; sync each; sync the folders with new names;
//  4. rename `prepared` to `checkpoint`, sync the folder, drop the frozen overlay, remove the
//     folders of deleted objects.
//
// A chunk that one body of the log has all of (see bodies.go) is not written in step 3: the body gets its name. The file
// that had it before is given to the log only after step 4, when no crash brings it back.
//
// Every step of 3 and 4 can be repeated, and Open repeats them if it finds `prepared`. The log has
// to be kept from the old checkpoint on until Flush.Run has returned.
//
// # Reading while all this goes on
//
// A reader looks for each block in the active overlay, the frozen one and then on disk. What a
// flush writes to disk is found in the frozen overlay by every reader that began after the freeze;
// for those that began before, the flush waits once, between steps 2 and 3 (see gates). Readers
// hold no lock of the applying goroutine while they wait for the disk.
//
// # What is noticed
//
// Each block has a record beside it, in another file: checksum, kind, and the index of the entry that changed it
// last, bound to object and block number by a check. The index page of a folder has the same for each chunk, and beside
// it is what each page of records must have for a sum; the checkpoint has a sum over all that. So reading notices
//
//   - bytes that changed, that belong to another block, chunk or object, or that the disk does not give;
//   - a record that changed, got lost, or is that of another block, with its data or without;
//   - chunk files that were exchanged or lost, if they do not have the same bytes;
//   - a data write that got lost, the record's, or both, so that an older version of the block, or none, is back,
//     whole by itself: the records are not those that were written last.
//
// Open notices index pages and sums of records that changed, got lost or are old. What a server can't notice by itself
// is a block that was damaged in memory before its checksum was computed. Comparing the records with those of another
// server shows it, since the chunk's index tells that both are of one state (Image.Differing, Replace).
//
// # Who owns what
//
// The apply side (Create, Delete, Write, Zero, Truncate, Mend, Replace, Freeze, Install, Close) belongs
// to one goroutine; Flush.Run to one other, started by the caller after each Freeze. Everything
// that reads may be called from any goroutine. The package starts none itself.
package store
