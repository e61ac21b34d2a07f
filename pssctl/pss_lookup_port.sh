#!/bin/sh
# pss_lookup_port.sh: the TCP and UDP sockets of each server, in the form of netstat (M25). The servers answer
# themselves; for a dead one on this machine the machine's own tables are read.
exec pssctl sockets "$@"
