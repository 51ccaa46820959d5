#!/usr/bin/env bash
# Write the files for grand-challenge.org or for a hospital: the image, a weights bundle and score.sh, each with its
# sha256.
#   ./export.sh [FOLDER [BUNDLE]]
#   FOLDER            where to; default export/
#   BUNDLE            the folder of weights, or its name under weights/; default $LESION_WEIGHTS, else the image's own
#   CONTAINER_ENGINE  as in build.sh
#   COMPRESSION       gzip level of the image, 1 (fast) to 9 (small); default 6
#   TAR               GNU tar, where `tar` is another one; default tar
case ${1:-} in -*)
  echo "usage: ./export.sh [FOLDER [BUNDLE]]; got: $*" >&2
  exit 2
  ;;
esac
case ${1:-} in "" | /*) folder=${1:-} ;; *) folder=$PWD/$1 ;; esac
bundle=${2:-${LESION_WEIGHTS:-}}
case $bundle in "" | /*) ;; *) [ -d "$bundle" ] && bundle=$PWD/$bundle ;; esac
case $0 in */*) cd "${0%/*}" ;; esac
. ./engine.sh

folder=${folder:-$PWD/export}
"$ENGINE" image inspect "$IMAGE" > /dev/null 2>&1 || fail "there is no image $IMAGE: build it with ./build.sh"
read_image
bundle=${bundle:-$PWD/weights/$BUNDLE}
[ -d "$bundle" ] || bundle=$PWD/weights/$bundle # a name, as process.py takes it too
tar=${TAR:-tar}
refuse_lfs_pointers "$bundle"
[ -f "$bundle/manifest.json" ] || fail "'$bundle' is no bundle: it has no manifest.json"
case $("$tar" --version) in *GNU*) ;; *) fail "'$tar' is not GNU tar; install it and name it in TAR" ;; esac

mkdir -p "$folder"
partial=$(mktemp -d "$folder/.partial.XXXXXX")
trap 'rm -rf "$partial"' EXIT
trap 'exit 130' INT TERM

# publish FILE: write its sha256, then move both into place, so that no half-written file has the name.
publish() {
  (cd "$partial" && if command -v sha256sum > /dev/null; then sha256sum "$1"; else shasum -a 256 "$1"; fi > "$1.sha256")
  mv -f "$partial/$1" "$folder/$1"
  mv -f "$partial/$1.sha256" "$folder/$1.sha256"
  echo "$folder/$1: $(wc -c < "$folder/$1") bytes, sha256 $(cut -c 1-64 < "$folder/$1.sha256")"
}

# Sorted, without dates and owners, so that the same bundle gives the same bytes. manifest.json is at the root.
weights=petct-lesion-segmentation-$VERSION-weights-$(basename "$bundle").tar.gz
(cd "$bundle" && "$tar" --create --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner \
  --mode='u=rwX,go=rX' -- manifest.json *.safetensors) | gzip -n > "$partial/$weights" || fail "could not pack '$bundle'"
publish "$weights"

cp score.sh "$partial/score.sh"
publish score.sh

image=petct-lesion-segmentation-$VERSION.tar.gz
"$ENGINE" save "$IMAGE" | gzip -n "-${COMPRESSION:-6}" > "$partial/$image" || fail "$ENGINE could not save $IMAGE"
publish "$image"
echo "$image: API method $METHOD, autoPET edition $EDITION, weights $BUNDLE"
