// Package rig runs the project's programs on one machine as an operator would run them on many: a cell of
// PFSserver processes on loopback, a tgtd with its management socket, and the tools between. The quick start, the
// end-to-end tests and the measurements are built on it.
//
// A rig knows the programs by their files (Programs) and talks to them only as other machines could: through
// configuration files, command lines, sockets, signals and /proc. Every process writes its log to a file,
// whose tail becomes part of the error when something does not come up. Processes end with the rig, even when the
// program that uses it is killed.
//
//	p, err := rig.Find("bin")
//	c, err := rig.NewCell(dir, p, rig.AllServers())
//	defer c.Close()
//	err = c.StartAll(ctx)
//	master, err := c.Master(ctx)
//	err = c.CreateVolume(ctx, "vol001", "1G")
//	t, err := rig.NewTarget(rig.TargetOptions{Dir: dir, Programs: p, Conf: c.Conf})
//	defer t.Close()
//	err = t.Start(ctx)
//	err = t.Load(ctx, "etc/tgt/targets.conf")
//	err = c.Server(master).Kill()
package rig
