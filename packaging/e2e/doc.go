// Package e2e tries the product as a whole, from outside: real processes on this machine, real clients that others
// have written, and a load that knows what was acknowledged. It has only tests.
//
// The programs are built from this tree, or taken from the folder that E2E_BIN names. Tests that need a program of
// a Debian package which is not installed are left out; the last lines of the output count and name them, so
// run it with -v. Pauses are measured and printed; no test asserts a time.
package e2e
