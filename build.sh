#!/usr/bin/env bash
# Build the image petct-lesion-segmentation:<version>.
#   CONTAINER_ENGINE  docker or podman; default: the first of the two that answers
#   BASE_IMAGE        another base than the Dockerfile's, for example one without CUDA
case $0 in */*) cd "${0%/*}" ;; esac
. ./engine.sh

refuse_lfs_pointers weights

arguments=(--build-arg "VERSION=$VERSION")
if [ -n "${BASE_IMAGE:-}" ]; then
  arguments+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
fi
"$ENGINE" build "${arguments[@]}" --tag "$IMAGE" . || fail "$ENGINE could not build $IMAGE; the reason stands above"
echo "built $IMAGE with $ENGINE: $("$ENGINE" image inspect --format '{{.Size}}' "$IMAGE") bytes"
