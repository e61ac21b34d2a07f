#!/bin/sh
# pss_delper.sh: erases the persistent data of the servers on this machine (M18): the folders PFS-ID that
# server.conf gives them, and nothing else. See pss_delper.sh(8).
set -eu

PATH=/usr/sbin:/usr/bin:/sbin:/bin:$PATH
program=${0##*/}

usage() {
	cat <<EOF
usage: $program [-y] [--conf FILE] [ID...]

Erases the data of the servers with these ids, or of all servers that live on this machine. It asks first,
and refuses while one of them runs.

  -y, --yes     don't ask
  --conf FILE   the cell's servers (else \$PSS_CONF, else /etc/pss/server.conf)
  -h, --help    this text
EOF
}

fail() {
	echo "$program: $1" >&2
	exit "${2:-1}"
}

yes=
conf=${PSS_CONF:-/etc/pss/server.conf}
ids=
while [ $# -gt 0 ]; do
	case $1 in
	-y | --yes) yes=1 ;;
	--conf)
		[ $# -ge 2 ] || fail "--conf needs a file" 2
		conf=$2
		shift
		;;
	--conf=*) conf=${1#--conf=} ;;
	-h | --help)
		usage
		exit 0
		;;
	[0-7]) ids="$ids $1" ;;
	*)
		usage >&2
		exit 2
		;;
	esac
	shift
done

if [ -z "$ids" ]; then
	list=$(PFSserver --conf "$conf" --local) || exit 1
	ids=$(echo "$list" | while read -r id _; do echo "$id"; done)
	[ -n "$ids" ] || fail "no server of $conf has an address of this machine"
fi

roots=
for id in $ids; do
	root=$(PFSserver --conf "$conf" --root "$id") || exit 1
	case $root in
	*/PFS-"$id") ;;
	*) fail "server $id: $root is not a folder PFS-$id" ;;
	esac
	case $root in
	*[[:space:]]*) fail "server $id: $root has a blank in its name: erase it by hand" ;;
	esac
	if [ ! -d "$root" ] || [ -L "$root" ]; then
		echo "$program: server $id: $root is not there"
		continue
	fi
	if [ -e "$root/lock" ] && ! flock --nonblock "$root/lock" true; then
		fail "server $id runs (process $(tr -d ' \n' < "$root/lock")): stop it first"
	fi
	roots="$roots $root"
done
[ -n "$roots" ] || exit 0

if [ -z "$yes" ]; then
	echo "This erases everything that these servers hold:$roots"
	printf 'Type "yes" to go on: '
	read -r answer || answer=
	[ "$answer" = yes ] || fail "nothing was erased"
fi
for root in $roots; do
	# The lock is held while the data go, so that no server starts in the middle of it; it goes last.
	touch "$root/lock"
	# shellcheck disable=SC2016 # the inner shell expands it
	flock --nonblock "$root/lock" sh -c 'find "$1" -mindepth 1 -maxdepth 1 ! -name lock -exec rm -rf {} + && rm -f "$1/lock"' sh "$root" ||
		fail "$root could not be erased"
	echo "$program: $root is empty"
done
