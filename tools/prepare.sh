#!/usr/bin/env bash
# Installs the Debian packages that the tests and the rehearsal use and that are missing. Says what it installs, does nothing twice.
set -euo pipefail

missing=()
backend="$(git --exec-path 2>/dev/null || true)/git-http-backend"
[ -x "$backend" ] || missing+=(git)
command -v ssh-keygen >/dev/null || missing+=(openssh-client)
command -v dockerd >/dev/null || missing+=(docker.io)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	echo "please install: ${missing[*]} (Debian's names; git with its http-backend, ssh-keygen to verify signed commits, a Docker engine for the image test)" >&2
	[ -x "$backend" ] || exit 1
	exit 0 # without the others only the tests that use them fail, and they say so
fi
echo "installing ${missing[*]} with apt-get" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
if ! { apt-get -q update && apt-get -q install --yes --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
	cat "$log" >&2
	exit 1
fi
