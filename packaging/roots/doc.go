// Package roots is the test of the packages: it installs them in clean systems of their own, a network namespace
// and a process namespace each, and does there what the operator's manual says, chapter 4 in its order. It has no
// code but tests. It needs root, Debian's debootstrap and a mirror of Debian; the base system is kept below
// /var/cache. `make test-packages` runs it.
package roots
