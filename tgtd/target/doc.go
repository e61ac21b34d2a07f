// Package target is the one place of truth of the daemon: which targets, logical units, accounts, access
// rules, portals and settings there are. The management side changes it through plain methods whose errors
// carry tgt's numbers (mgmt.Errno); the iSCSI transport asks it through iscsi.Directory.
//
// # Rules
//
//   - A method that fails has changed nothing. (The one exception is tgt's own: the parameters of a logical
//     unit are set one by one, and those before a bad one stay.)
//   - Model.mu guards all of the model and is a leaf: no store, unit, session or socket is touched while it
//     is held. So a login never waits for a disk, and a logical unit whose store takes seconds to open holds
//     up nothing but its own request.
//   - What takes long reserves first: the unit number while its store opens, the target while it is
//     being deleted. Whoever comes second is told so by the error it would get a moment later.
//   - Lists that logins read (rules, accounts) are replaced, never changed in place.
package target
