// Package manuals keeps the documents true: it reads the commands out of the manuals so that tests can run them, and
// its own tests run what one machine can show, and compare the man pages with what the programs say of themselves.
//
// # The marking of the manuals
//
// Commands stand in fenced blocks of the language console, whose fence says where they run:
//
//	```console run=control local
//	$ createISCSIVol vol001 1G
//	$ PFSClient readdir /
//	vol001…
//	```
//
// A line that begins with "$ " is a command for sh; one that ends with a backslash goes on in the next line. The lines
// behind a command are what it prints, on both channels: "…" within a line stands for any text, and a line that is only "…"
// for any number of lines. A command without such lines may print what it likes. It has to end with status 0, or what status=N
// of its block says. Words of a fence:
//
//	run=MACHINE   who runs it: server (each server of the cell), server0 to server7, control, target, client
//	run=no        nobody; reason="…" says why, and is required
//	local         it also works where the whole cell and the target are on one machine, without packages installed
//	status=N      the exit status of each command of the block
//	file=PATH     (any language) not commands but the content of a file
//	on=MACHINE    whose file that is; all by default
//
// A console block without run= is an error, so no command can be forgotten. Blocks of other languages without file= are
// illustrations.
package manuals
