#!/usr/bin/env bash
# Builds the base and one image per step with a Docker engine: build.sh VERSION STEP...
# The programs are taken from bin/ (make binaries). Nothing is pulled, nothing is pushed.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$1
shift
DOCKER_HOST=$(images/engine.sh)
export DOCKER_HOST DOCKER_BUILDKIT=0 # the classic builder needs no plugin

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Docker warns of its own old builder each time; what matters is why a build fails.
build() {
	docker build --quiet "$@" >/dev/null 2>"$work/log" || {
		cat "$work/log" >&2
		exit 1
	}
}

mkdir -p "$work/rootfs/tmp" "$work/rootfs/etc"
chmod 1777 "$work/rootfs/tmp"
printf 'root:x:0:0:root:/builder/home:/none\nnonroot:x:65532:65532:nonroot:/tmp:/none\n' >"$work/rootfs/etc/passwd"
printf 'root:x:0:\nnonroot:x:65532:\n' >"$work/rootfs/etc/group"
tar --create --file "$work/rootfs.tar" --owner=0 --group=0 --numeric-owner --sort=name --mtime=@0 --directory "$work/rootfs" .
cp Dockerfile.base "$work/Dockerfile"
build --tag cloudbuild-steps/base "$work"

for step in "$@"; do
	build --tag "cloudbuild-steps/$step:$version" --tag "cloudbuild-steps/$step" --file "images/$step/Dockerfile" bin
	docker image inspect --format "cloudbuild-steps/$step:$version {{.Size}} bytes" "cloudbuild-steps/$step:$version"
done
[ "$DOCKER_HOST" = "$(docker context inspect --format '{{.Endpoints.docker.Host}}' 2>/dev/null || true)" ] || echo "to use them: export DOCKER_HOST=$DOCKER_HOST"
