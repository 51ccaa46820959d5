#!/usr/bin/env bash
# Score every PET/CT study below a folder with the container image, without network and without root:
#   ./score.sh STUDIES RESULTS [OPTIONS of score.py]
# It needs nothing beside it but Docker or podman and the image.  --truth FOLDER, --weights FOLDER and
# --overrides FILE are of this machine.
#   CONTAINER_ENGINE  docker or podman; default: the first of the two that answers
#   IMAGE             default: the newest petct-lesion-segmentation that the engine holds
#   MEMORY            limit of the container, for example 30g; default none
#   GPU               none: the CPU, on a machine whose engine cannot hand an NVIDIA GPU to containers
set -euo pipefail

fail() {
  printf 'score.sh: %s\n' "$*" >&2
  exit 1
}

[ $# -ge 2 ] || fail "usage: ./score.sh STUDIES RESULTS [OPTIONS of score.py]"
studies=$1
results=$2
shift 2

engine=""
for name in ${CONTAINER_ENGINE:-docker podman}; do
  if command -v "$name" > /dev/null && "$name" info > /dev/null 2>&1; then
    engine=$name
    break
  fi
done
[ -n "$engine" ] || fail "no usable container engine: install Docker or podman, or name one in CONTAINER_ENGINE"
image=${IMAGE:-$("$engine" images --format '{{.Repository}}:{{.Tag}}' | grep 'petct-lesion-segmentation:' | head -n 1 || true)}
[ -n "$image" ] || fail "the engine holds no image petct-lesion-segmentation: load it with $engine load -i FILE"

# A CSV is found in its folder, and the files it names must lie below that.
inside=/studies
case $studies in
  *.csv | *.CSV)
    [ -f "$studies" ] || fail "there is no file '$studies'"
    inside=/studies/$(basename "$studies")
    studies=$(dirname "$studies")
    ;;
esac
[ -d "$studies" ] || fail "there is no folder '$studies'"
mkdir -p "$results" || fail "cannot make the folder '$results'"
studies=$(cd "$studies" && pwd)
results=$(cd "$results" && pwd)
mounts=(-v "$studies:/studies:ro" -v "$results:/results")

# Folders that options name are mounted too; everything else is handed on.
gpu_wanted=${GPU:-}
options=()
while [ $# -gt 0 ]; do
  options+=("$1")
  case $1 in
    --device=cpu) gpu_wanted=none ;;
    --device) [ "${2:-}" != cpu ] || gpu_wanted=none ;;
    --truth | --weights)
      if [ -n "${2:-}" ] && [ -d "$2" ]; then
        mounts+=(-v "$(cd "$2" && pwd):/mounted$1:ro")
        options+=("/mounted$1")
        shift
      fi
      ;;
    --overrides)
      if [ -n "${2:-}" ] && [ -f "$2" ]; then
        mounts+=(-v "$(cd "$(dirname "$2")" && pwd)/$(basename "$2"):/mounted/overrides.csv:ro")
        options+=(/mounted/overrides.csv)
        shift
      fi
      ;;
  esac
  shift
done

# Results belong to who calls; root's are made by the image's own user, to whom the folder is opened.
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

# An init forwards signals; score.py does without one where podman came without it.
init=(--init)
case $("$engine" --version) in *podman*) [ -e /usr/libexec/podman/catatonit ] || init=() ;; esac

exec "$engine" run --rm ${init[@]+"${init[@]}"} --network=none --cap-drop=ALL --security-opt=no-new-privileges --read-only --tmpfs /tmp \
  --security-opt=label=disable ${MEMORY:+--memory="$MEMORY" --memory-swap="$MEMORY"} ${user[@]+"${user[@]}"} \
  ${gpu[@]+"${gpu[@]}"} "${mounts[@]}" --entrypoint python3 "$image" score.py "$inside" --output /results \
  ${options[@]+"${options[@]}"}
