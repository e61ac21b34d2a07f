#!/bin/sh
# pss_set_ssh.sh: spreads this user's public key to the machines of server.conf, for logins without a password
# (M19). The product's own tools need no ssh. See pss_set_ssh.sh(1).
set -eu

program=${0##*/}

usage() {
	cat <<EOF
usage: $program [--conf FILE] [-i KEY.pub] [-l USER]

Copies a public key to the authorized_keys of every machine in server.conf, as ssh-copy-id does.

  --conf FILE   the cell's servers (else \$PSS_CONF, else /etc/pss/server.conf)
  -i KEY.pub    the key (else the first of ~/.ssh/id_ed25519.pub, id_ecdsa.pub, id_rsa.pub)
  -l USER       the user to log in as (else the one who runs this)
  -h, --help    this text
EOF
}

fail() {
	echo "$program: $1" >&2
	exit "${2:-1}"
}

conf=${PSS_CONF:-/etc/pss/server.conf}
key=
user=
while [ $# -gt 0 ]; do
	case $1 in
	--conf | -i | -l) [ $# -ge 2 ] || fail "$1 needs an argument" 2 ;;
	esac
	case $1 in
	--conf)
		conf=$2
		shift
		;;
	--conf=*) conf=${1#--conf=} ;;
	-i)
		key=$2
		shift
		;;
	-l)
		user=$2
		shift
		;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
	shift
done

if [ -z "$key" ]; then
	for name in id_ed25519 id_ecdsa id_rsa; do
		if [ -r "$HOME/.ssh/$name.pub" ]; then
			key=$HOME/.ssh/$name.pub
			break
		fi
	done
	[ -n "$key" ] || fail "there is no public key in $HOME/.ssh: make one with ssh-keygen"
fi
[ -r "$key" ] || fail "can't read $key"
[ -r "$conf" ] || fail "can't read $conf"
command -v ssh-copy-id > /dev/null || fail "ssh-copy-id is not installed (package openssh-client)"

# Each machine once, however many servers live on it.
hosts=$(sed 's/#.*//' "$conf" | while read -r _ host _; do [ -z "$host" ] || echo "$host"; done | sort -u)
[ -n "$hosts" ] || fail "$conf names no machine"
failed=
for host in $hosts; do
	ssh-copy-id -i "$key" "${user:+$user@}$host" || failed="$failed $host"
done
[ -z "$failed" ] || fail "no key was set on:$failed"
