#!/usr/bin/env bash
# Prints the address of a Docker engine. When none runs and this is root, one is started on a socket of its own, without networks, and
# stays: engine.sh stop ends it.
set -euo pipefail

state=${ENGINE_DIR:-/var/tmp/cloudbuild-steps-engine}
socket="unix://$state/docker.sock"

answers() { docker --host "$1" version >/dev/null 2>&1; }

if [ "${1:-}" = stop ]; then
	[ -e "$state/docker.pid" ] || exit 0
	pid=$(cat "$state/docker.pid")
	kill "$pid" 2>/dev/null || exit 0
	while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
	umount "$state/exec/netns/default" 2>/dev/null || true # dockerd leaves it, and the folder could not be removed
	exit 0
fi
command -v docker >/dev/null || { echo "no docker program: install Debian's docker.io" >&2; exit 1; }
for host in "${DOCKER_HOST:-unix:///var/run/docker.sock}" "$socket"; do
	if answers "$host"; then
		echo "$host"
		exit 0
	fi
done
if ! command -v dockerd >/dev/null || [ "$(id -u)" != 0 ]; then
	echo "no Docker engine runs: start one, or install Debian's docker.io and run this as root" >&2
	exit 1
fi
mkdir -p "$state"
# vfs, no bridge and no iptables work in every sandbox; building FROM scratch needs none of them.
setsid dockerd --host "$socket" --data-root "$state/data" --exec-root "$state/exec" --pidfile "$state/docker.pid" \
	--storage-driver vfs --bridge none --iptables=false --ip6tables=false >"$state/dockerd.log" 2>&1 </dev/null &
for _ in $(seq 300); do
	if answers "$socket"; then
		echo "started a Docker engine; images/engine.sh stop ends it" >&2
		echo "$socket"
		exit 0
	fi
	sleep 0.1
done
echo "dockerd does not start:" >&2
tail -n 20 "$state/dockerd.log" >&2
exit 1
