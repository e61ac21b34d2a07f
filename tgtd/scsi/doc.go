// Package scsi is the device server: it executes SCSI commands (SPC-4, SBC-3) on logical units whose
// bytes are kept by a backstore.Store, and knows nothing of the network. A Target is a SCSI target
// device as the transport sees it (sam.Target); a Unit is one logical unit of it, LUN 0 being the
// controller that exists with the target.
//
// # One command
//
//  1. Target.Execute takes a task from the pool and looks up its I_T_L nexus: the meeting of one
//     session and one unit, with pending unit attentions and counters.
//  2. Unit.admit puts the task at the end of the unit's task set. It starts at once unless task
//     attributes (SAM-5 8.6) or an atomic command on the same blocks make it wait.
//  3. dispatch checks, in the order of the reference target: control byte, unit number, unit
//     attention, reservation, operation code, medium, write protection; then the handler of the
//     command's row in the table (commands.go) runs.
//  4. A handler either completes the command or prepares the task's one backstore.IO and names the step
//     that continues when the store has completed it. task.run drives the steps: a store that completes
//     inside Submit continues the loop, any other one resumes it from its own goroutine. No goroutine
//     is started and nothing is allocated for a READ or a WRITE.
//     A step may also park the task until something else has happened: the unit's state was saved (state.go), a
//     sanitize operation has ended.
//  5. task.finish hands the command to the transport, then takes the task out of the task set, which
//     may start tasks that waited for it and lets task management functions answer.
//
// That is how a disk, a disc and the controller work. What a type of unit has of its own stands in its class
// (devicetype.go): the table, the mode pages, what INQUIRY says. A tape, a changer and a real device take commands that
// are no block requests and may take long: their medium is a worker (worker.go), whose goroutine executes the
// rest of the command, one after the other, instead of an I/O.
//
// # Who owns what
//
// The transport owns the Command; nothing of it is touched after Done. DataIn lies in a buffer of
// the target's pool that Command.Release gives back. Unit.mu guards the task set, unit
// attentions, reservations and the current medium; the settings that commands read (attributes) are an
// immutable snapshot replaced as a whole. Target.mu guards the lists of units and nexuses, and is
// taken before any Unit.mu.
package scsi
