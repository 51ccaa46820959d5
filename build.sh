#!/usr/bin/env bash
# Build the image petct-lesion-segmentation:<version>.
#   CONTAINER_ENGINE  docker or podman; default: the first of the two that answers
#   BASE_IMAGE        another base than the Dockerfile's, for example one without CUDA
#   API_METHOD        exec: one study, then the end (default); invoke: grand-challenge.org's invoke mode
#   EDITION           of autoPET, 1 to 5; default 2
#   WEIGHTS           bundles to copy, names under weights/; the first one is used. Default: all that are shipped, and
#                     eoa is used
[ $# -eq 0 ] || {
  echo "usage: ./build.sh, without arguments; environment variables choose, as the head of the file says; got: $*" >&2
  exit 2
}
case $0 in */*) cd "${0%/*}" ;; esac
. ./engine.sh

refuse_lfs_pointers weights

arguments=(--build-arg "VERSION=$VERSION")
for name in BASE_IMAGE API_METHOD EDITION WEIGHTS; do
  if [ -n "${!name:-}" ]; then
    arguments+=(--build-arg "$name=${!name}")
  fi
done
"$ENGINE" build "${arguments[@]}" --tag "$IMAGE" . || fail "$ENGINE could not build $IMAGE; the reason stands above"
read_image
echo "built $IMAGE with $ENGINE: $("$ENGINE" image inspect --format '{{.Size}}' "$IMAGE") bytes; API method $METHOD," \
  "autoPET edition $EDITION, weights $BUNDLE"
