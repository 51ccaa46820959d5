# shellcheck shell=bash disable=SC2034
# What build.sh, test.sh and export.sh share: the engine, the image's name, the platform's flags.
# To be sourced from the repository's root.  It gives ENGINE, IMAGE, VERSION and PLATFORM_FLAGS, and by read_image
# what the image is for.
set -euo pipefail

fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}

# The first engine that answers. A docker client alone, with no engine behind it, is not one.
find_engine() {
  local name seen=""
  for name in ${CONTAINER_ENGINE:-docker podman}; do
    command -v "$name" > /dev/null || continue
    if "$name" info > /dev/null 2>&1; then
      ENGINE=$name
      return
    fi
    seen="$seen '$name' is installed, but '$name info' fails: start its engine, and check that you are allowed to use it"
  done
  if [ -n "${CONTAINER_ENGINE:-}" ]; then
    fail "CONTAINER_ENGINE='$CONTAINER_ENGINE' is no usable container engine.${seen:- There is no such command.}"
  fi
  fail "no usable container engine: install Docker or podman, or name one in CONTAINER_ENGINE.$seen"
}

# A clone without Git LFS holds three-line text files where the large files should be.
refuse_lfs_pointers() {
  local folder pointers
  for folder in "$@"; do
    [ -d "$folder" ] || fail "there is no folder '$folder'"
  done
  pointers=$(find "$@" -type f -size -1025c -exec grep -l '^version https://git-lfs' {} +) || true
  [ -z "$pointers" ] || fail "Git LFS pointers stand where files should be: ${pointers//$'\n'/, }. \
Fetch the files first: git lfs install && git lfs pull"
}

# What the image was built for, out of its label and its environment: METHOD (exec or invoke), EDITION, BUNDLE.
read_image() {
  local line
  METHOD=$("$ENGINE" image inspect --format '{{index .Config.Labels "org.grand-challenge.api-method"}}' "$IMAGE")
  METHOD=${METHOD:-exec}
  EDITION=2
  BUNDLE=eoa
  while IFS= read -r line; do
    case $line in
      AUTOPET_EDITION=?*) EDITION=${line#*=} ;;
      LESION_DEFAULT_WEIGHTS=?*) BUNDLE=${line#*=} ;;
    esac
  done < <("$ENGINE" image inspect --format '{{range .Config.Env}}{{println .}}{{end}}' "$IMAGE")
  read -r BUNDLE line <<< "$BUNDLE" # the first name
}

find_engine
VERSION=$(sed -n "s/^__version__ = [\"']\([^\"']*\)[\"'].*/\1/p" model/__init__.py)
[ -n "$VERSION" ] || fail "model/__init__.py has no line __version__ = \"...\""
IMAGE=petct-lesion-segmentation:$VERSION

# How grand-challenge.org runs an algorithm, and a root file system that nobody can write to.
# MEMORY is for machines with less than the platform's 30 GB.
MEMORY=${MEMORY:-30g}
PLATFORM_FLAGS=(--memory="$MEMORY" --memory-swap="$MEMORY" --network=none --cap-drop=ALL
  --security-opt=no-new-privileges --shm-size=128m --pids-limit=256 --read-only --tmpfs /tmp)
