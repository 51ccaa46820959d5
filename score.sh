#!/usr/bin/env bash
# Score every PET/CT study below a folder with the container image, without network and without root:
#   ./score.sh STUDIES RESULTS [OPTIONS of score.py]
# or take studies from a PACS, with one open port (docs/hospital.md says what that opens):
#   ./score.sh RESULTS --listen PORT --aet NAME --send HOST:PORT:AET [OPTIONS of score.py]
# It needs only Docker or podman, and the image.  --truth FOLDER, --weights FOLDER, --pet-only FOLDER, --masks FOLDER,
# --overrides FILE, --tls-ca, --tls-cert and --tls-key FILE are paths on this machine; --bind is the address of this
# machine to listen at.
#   CONTAINER_ENGINE  docker or podman; default: the first of the two that works
#   IMAGE             default: the newest petct-lesion-segmentation image that the engine has
#   MEMORY            the container's memory limit, for example 30g; default: none
#   GPU               none: use the CPU, where the engine cannot give an NVIDIA GPU to containers
set -euo pipefail

fail() {
  printf 'score.sh: %s\n' "$*" >&2
  exit 1
}

listens=no
for word in "$@"; do
  case $word in --listen | --listen=*) listens=yes ;; esac
done
studies=""
if [ "$listens" = no ]; then
  [ $# -ge 2 ] || fail "usage: ./score.sh STUDIES RESULTS [OPTIONS of score.py]"
  studies=$1
  shift
else
  case $1 in -*) fail "usage: ./score.sh RESULTS --listen PORT --aet NAME --send HOST:PORT:AET [OPTIONS of score.py]" ;; esac
fi
results=$1
shift

engine=""
for name in ${CONTAINER_ENGINE:-docker podman}; do
  if command -v "$name" > /dev/null && "$name" info > /dev/null 2>&1; then
    engine=$name
    break
  fi
done
[ -n "$engine" ] || fail "no usable container engine: install Docker or podman, or name one in CONTAINER_ENGINE"
image=${IMAGE:-$("$engine" images --format '{{.Repository}}:{{.Tag}}' | grep 'petct-lesion-segmentation:' | head -n 1 || true)}
[ -n "$image" ] || fail "the engine has no image petct-lesion-segmentation: load it with $engine load -i FILE"

# The folder of a CSV is mounted, so the files that it names must lie below that folder.
inside=/studies
case $studies in
  "") inside="" ;;
  *.csv | *.CSV)
    [ -f "$studies" ] || fail "there is no file '$studies'"
    inside=/studies/$(basename "$studies")
    studies=$(dirname "$studies")
    ;;
esac
[ "$listens" = yes ] || [ -d "$studies" ] ||
  fail "there is no folder '$studies': give the folder, or the CSV, of the studies"
mkdir -p "$results" || fail "cannot make the folder '$results': give a folder that you may write to"
results=$(cd "$results" && pwd)
mounts=(-v "$results:/results")
[ "$listens" = yes ] || mounts=(-v "$(cd "$studies" && pwd):/studies:ro" "${mounts[@]}")

# Folders and files in options are mounted too; every other option is passed on.
gpu_wanted=${GPU:-}
port=""
address=127.0.0.1
options=()
while [ $# -gt 0 ]; do
  # --bind is for the port that is published here; inside, the container has one address of its own
  case $1 in
    --bind)
      address=${2:-}
      shift $(($# > 1 ? 2 : 1))
      continue
      ;;
    --bind=*)
      address=${1#*=}
      shift
      continue
      ;;
  esac
  options+=("$1")
  case $1 in
    --listen=*) port=${1#*=} ;;
    --listen) port=${2:-} ;;
    --device=cpu) gpu_wanted=none ;;
    --device) [ "${2:-}" != cpu ] || gpu_wanted=none ;;
    --truth | --weights | --pet-only | --masks)
      if [ -n "${2:-}" ] && [ -d "$2" ]; then
        mounts+=(-v "$(cd "$2" && pwd):/mounted$1:ro")
        options+=("/mounted$1")
        shift
      fi
      ;;
    --overrides | --tls-ca | --tls-cert | --tls-key)
      if [ -n "${2:-}" ] && [ -f "$2" ]; then
        mounts+=(-v "$(cd "$(dirname "$2")" && pwd)/$(basename "$2"):/mounted$1:ro")
        options+=("/mounted$1")
        shift
      fi
      ;;
  esac
  shift
done

# Results belong to the user who runs this.  For root, the image's own user writes them, and owns the folder.
user=()
if [ "$(id -u)" -ne 0 ]; then
  user=(--user "$(id -u):$(id -g)")
  case $("$engine" --version) in *podman*) user+=(--userns=keep-id) ;; esac
else
  chown 10001:10001 "$results"
fi

gpu=()
if [ "$gpu_wanted" != none ] && { [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; }; then
  case $("$engine" --version) in
    *podman*) gpu=(--device nvidia.com/gpu=all) ;;
    *) gpu=(--gpus all) ;;
  esac
fi

# Without --listen there is no network at all. With it there is a bridge that no other container is on, and one port of
# this machine leads to the container.
network=(--network=none)
if [ "$listens" = yes ]; then
  case $port in "" | *[!0-9]*) fail "--listen takes a port, got '$port'" ;; esac
  case $address in *:*) address="[$address]" ;; esac
  "$engine" network inspect petct-lesion-segmentation > /dev/null 2>&1 ||
    "$engine" network create petct-lesion-segmentation > /dev/null ||
    fail "the engine cannot make the network petct-lesion-segmentation"
  network=(--network=petct-lesion-segmentation --publish "$address:$port:$port")
  options+=(--bind 0.0.0.0)
  echo "score.sh: port $port of this machine's address $address leads to port $port of the container; no other does" >&2
fi

# An init process forwards signals.  Some installations of podman have none; score.py also works without.
init=(--init)
case $("$engine" --version) in *podman*) [ -e /usr/libexec/podman/catatonit ] || init=() ;; esac

exec "$engine" run --rm ${init[@]+"${init[@]}"} "${network[@]}" --cap-drop=ALL --security-opt=no-new-privileges --read-only --tmpfs /tmp \
  --security-opt=label=disable ${MEMORY:+--memory="$MEMORY" --memory-swap="$MEMORY"} ${user[@]+"${user[@]}"} \
  ${gpu[@]+"${gpu[@]}"} "${mounts[@]}" --entrypoint python3 "$image" score.py ${inside:+"$inside"} --output /results \
  ${options[@]+"${options[@]}"}
