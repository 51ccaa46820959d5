#!/usr/bin/env bash
# Check the container for real: build.sh, test.sh and export.sh as any user runs them, a look from inside, broken cases.
#   .ci/container.sh [WORK_FOLDER]     a folder that is named is kept, with its base image, for the next time
#   CONTAINER_ENGINE     docker: this machine's own, where the images stay; the default where it answers
#                        podman: one of this run alone, with an image store of its own
#   PIP_EXTRA_INDEX_URL  with Docker: another index for pip in the image, for example one that has torch for the CPU
# podman needs no registry: its base image is Debian 12, made by mmdebstrap. It needs root on Debian 12.
set -euo pipefail
case $#${1:-} in 0 | 1[!-]*) ;; *)
  echo "usage: .ci/container.sh [WORK_FOLDER]; got: $*" >&2
  exit 2
  ;;
esac
cd "$(dirname "$0")/.."

work=${1:-}
if [ -z "$work" ]; then
  work=$(mktemp -d)
  trap clean_up EXIT
fi
mkdir -p "$work/bin"
work=$(cd "$work" && pwd)

clean_up() {
  if [ -x "$work/bin/podman" ]; then
    "$work/bin/podman" rm --all --force > /dev/null 2>&1 || true
    umount "$work/store/overlay" 2> /dev/null || true
  fi
  rm -rf "$work"
}

say() { printf '[%4d s] %s\n' "$SECONDS" "$*"; }
die() {
  printf '.ci/container.sh: %s\n' "$*" >&2
  exit 1
}
there_is() { "$engine" image inspect "$1" > /dev/null 2>&1; } # there_is IMAGE

# 1. The engine.
engine=${CONTAINER_ENGINE:-}
if [ -z "$engine" ]; then
  engine=podman
  if docker info > /dev/null 2>&1; then engine=docker; fi
fi

# A podman of this run alone, first on PATH, so that the scripts run unchanged. What pip needs from this machine is
# mounted for builds only: the CA bundle and, where there is one, a folder of wheels.
prepare_podman() {
  local missing=() tool ca=/etc/ssl/certs/ca-certificates.crt build=(--pull=never --network host) podman
  for tool in podman runc mmdebstrap; do
    command -v "$tool" > /dev/null || missing+=("$tool")
  done
  if [ "${#missing[@]}" -gt 0 ]; then
    .ci/install "${missing[@]}" || die "could not install ${missing[*]}"
  fi
  # runc, since crun refuses hybrid cgroups; podman's default rlimits may be above root's own
  cat > "$work/containers.conf" << 'CONF'
[containers]
default_ulimits = ["nofile=16384:16384", "nproc=16384:16384"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
CONF
  if [ -f "$ca" ]; then
    build+=(-v "$ca:$ca:ro")
  fi
  if [ -d "${PIP_FIND_LINKS:-}" ]; then
    printf '[global]\nfind-links = %s\n' "$PIP_FIND_LINKS" > "$work/pip.conf"
    build+=(-v "$PIP_FIND_LINKS:$PIP_FIND_LINKS:ro" -v "$work/pip.conf:/etc/pip.conf:ro")
  fi
  podman=$(command -v podman)
  cat > "$work/bin/podman" << WRAPPER
#!/usr/bin/env bash
command=\$1
shift
if [ "\$command" = build ]; then
  set -- $(printf '%q ' "${build[@]}") "\$@"
fi
exec "$podman" --root "$work/store" --runroot "$work/run" --storage-driver overlay "\$command" "\$@"
WRAPPER
  chmod +x "$work/bin/podman"
  export PATH="$work/bin:$PATH" CONTAINERS_CONF="$work/containers.conf"
}
if [ "$engine" = podman ]; then prepare_podman; fi
export CONTAINER_ENGINE=$engine
say "engine: $("$engine" --version)"

# 2. The base image: Python 3.11. podman's is Debian 12's own, EXTERNALLY-MANAGED as Debian ships it.
export BASE_IMAGE=localhost/python:3.11-slim
if [ "$engine" = docker ]; then
  printf 'FROM docker.io/library/python:3.11-slim\nENV PIP_EXTRA_INDEX_URL="%s"\n' "${PIP_EXTRA_INDEX_URL:-}" |
    docker build --quiet --tag "$BASE_IMAGE" - > /dev/null || die "docker could not make the base image"
elif ! there_is "$BASE_IMAGE"; then
  # unpacked in memory where there is room: dpkg's fsyncs make it slow on disk
  TMPDIR=$([ -w /dev/shm ] && echo /dev/shm || echo /tmp) \
    mmdebstrap --quiet --variant=minbase --include=python3,python3-pip,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/base.tar"
  podman import --quiet "$work/base.tar" "$BASE_IMAGE" > /dev/null
  rm -f "$work/base.tar"
fi
say "base image: $("$engine" image inspect --format '{{.Size}}' "$BASE_IMAGE") bytes"

# 3. Build, run, compare: the same three scripts as in the README.
./build.sh > "$work/build.log" 2>&1 || {
  tail -n 60 "$work/build.log"
  die "build.sh failed"
}
tail -n 1 "$work/build.log"
say "built"
SKIP_BUILD=1 ./test.sh
say "tested"

# score.sh as in a hospital: the sample as a study, of which a lone PET is none.
rm -rf "$work/studies" "$work/results"
mkdir -p "$work/studies/one" "$work/studies/lone"
cp test/input/images/pet/*.mha "$work/studies/one/pet.mha"
cp test/input/images/ct/*.mha "$work/studies/one/ct.mha"
cp test/input/images/pet/*.mha "$work/studies/lone/pet.mha"
status=0
IMAGE=$(. ./engine.sh && echo "$IMAGE") ./score.sh "$work/studies" "$work/results" --device cpu || status=$?
[ "$status" -eq 3 ] || die "score.sh ended with $status, not with 3 for a study that cannot be scored"
[ "$(wc -l < "$work/results/summary.csv")" -eq 2 ] || die "summary.csv does not hold one study"
[ "$(wc -l < "$work/results/failures.csv")" -eq 2 ] || die "failures.csv does not hold one study"
ls "$work"/results/report.html "$work"/results/studies/*/mask.mha "$work"/results/studies/*/report.json > /dev/null
say "score.sh scores"

# score.sh --listen: one port of this machine leads to the container, which answers C-ECHO; the rest stays closed.
rm -rf "$work/listened" "$work/listen.log"
port=$((20000 + RANDOM % 10000))
IMAGE=$(. ./engine.sh && echo "$IMAGE") ./score.sh "$work/listened" --listen "$port" --aet LESIONS \
  --send 192.0.2.1:104:ARCHIVE --device cpu > "$work/listen.log" 2>&1 &
listener=$!
until grep -qs '^listening on ' "$work/listen.log"; do
  kill -0 "$listener" 2> /dev/null || die "score.sh --listen ended: $(tail -n 1 "$work/listen.log")"
  sleep 0.5
done
"$engine" run --rm -i --network=host --entrypoint python3 "$(. ./engine.sh && echo "$IMAGE")" - "$port" << 'PY' ||
import sys

from pynetdicom.ae import ApplicationEntity

entity = ApplicationEntity("ARCHIVE")
entity.add_requested_context("1.2.840.10008.1.1")
association = entity.associate("127.0.0.1", int(sys.argv[1]), ae_title="LESIONS")
if not association.is_established or association.send_c_echo().Status != 0:
    sys.exit("no answer to C-ECHO")
association.release()
PY
  { kill -TERM "$listener" && die "score.sh --listen does not answer"; }
"$engine" exec -i "$("$engine" ps --quiet --filter network=petct-lesion-segmentation)" python3 - "$port" << 'PY' ||
import os
import sys
from pathlib import Path

tcp = [line.split() for name in ("tcp", "tcp6") for line in Path("/proc/net", name).read_text().splitlines()[1:]]
listening = sorted(int(fields[1].split(":")[1], 16) for fields in tcp if fields[3] == "0A")
root = [line.split() for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == "/"][-1]
status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":\t" in line)
found = (listening, os.getuid() != 0, root[3].split(",")[0], int(status["CapEff"], 16), status["NoNewPrivs"])
if found != ([int(sys.argv[1])], True, "ro", 0, "1"):
    sys.exit(f"found: {found}")
PY
  { kill -TERM "$listener" && die "score.sh --listen is not isolated"; }
kill -TERM "$listener"
status=0
wait "$listener" || status=$?
[ "$status" -eq 143 ] || die "score.sh --listen ended with $status, not with 143 for SIGTERM"
say "score.sh --listen answers at one port"

# 4. From inside: what the platform's flags did, and what the image holds.
. ./engine.sh # IMAGE, VERSION, MEMORY, PLATFORM_FLAGS
rm -rf "$work/inside"
mkdir -m 777 "$work/inside"
"$engine" run --rm -i "${PLATFORM_FLAGS[@]}" -v "$PWD/test/input:/input:ro" -v "$work/inside:/output" \
  --entrypoint python3 "$IMAGE" - "$MEMORY" << 'PY'
import getpass
import os
import re
import sys
from importlib.metadata import distributions
from pathlib import Path


def check(what, found, wanted):
    print(f"  {what}: {found}")
    if found != wanted:
        sys.exit(f"{what} should be {wanted}")


def writable(folder):
    try:
        (Path(folder) / ".probe").write_text("")
        (Path(folder) / ".probe").unlink()
    except OSError:
        return False
    return True


def limit(*paths):
    return next(int(Path(path).read_text()) for path in paths if Path(path).exists())


status = dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())
check("user is root", 0 in (os.getuid(), os.getgid(), *os.getgroups()), False)
check("user has a name", bool(getpass.getuser()), True)
for kind in ("CapEff", "CapPrm", "CapBnd"):
    check(kind, status[kind], "0" * 16)
check("no new privileges", status["NoNewPrivs"], "1")
check("network interfaces", os.listdir("/sys/class/net"), ["lo"])
check("memory limit", limit("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"),
      int(sys.argv[1][:-1]) << {"k": 10, "m": 20, "g": 30}[sys.argv[1][-1].lower()])
check("process limit", limit("/sys/fs/cgroup/pids.max", "/sys/fs/cgroup/pids/pids.max"), 256)
check("/dev/shm, bytes", os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize, 128 << 20)
root = [line.split() for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1] == "/"][-1]
check("root is mounted", root[3].split(",")[0], "ro")
check("writable", [f for f in ("/", "/opt/app", "/input", "/tmp", "/output") if writable(f)], ["/tmp", "/output"])
check("/tmp holds", os.listdir("/tmp"), [])
check("torch distributions", len({(d.version, str(d.locate_file(""))) for d in distributions(name="torch")}), 1)

allowed = re.compile(
    r"process\.py|score\.py|LICENSE|NOTICE|requirements\.txt|model/([a-z]+/){0,2}\w+\.py|model/networks/kernels\.cu"
    r"|model/hospital/pages/(\w+\.html\.j2|report\.(css|js)|fonts/(\w+(-\w+)?\.ttf|LICENSE-\w+\.txt|NOTICE))"
    r"|(model/([a-z]+/){0,2})?__pycache__/\w+\.cpython-\d+\.pyc|weights/\w+/(manifest\.json|[\w.-]+\.safetensors)"
)
pages = {f"model/hospital/pages/{name}.html.j2" for name in ("report", "patients")}
needed = {"process.py", "LICENSE", "NOTICE", *pages, *(f"weights/{name}/manifest.json" for name in ("eoa", "diwa"))}
files = {str(file.relative_to("/opt/app")) for file in Path("/opt/app").rglob("*") if not file.is_dir()}
check("files in /opt/app that do not belong there", sorted(f for f in files if not allowed.fullmatch(f)), [])
check("files missing in /opt/app", sorted(needed - files), [])
check("caches left", [cache for cache in ("/root/.cache", "/tmp/.cache") if os.path.lexists(cache)], [])
PY
[ "$("$engine" image inspect --format '{{json .Config.Entrypoint}}' "$IMAGE")" = '["python3","process.py"]' ] ||
  die "the entry point is not python3 process.py"
"$engine" run --rm "${PLATFORM_FLAGS[@]}" "$IMAGE" --version | grep -F "$VERSION" ||
  die "process.py --version does not say $VERSION"
say "flags and contents are as they should be"

# 5. Broken input: non-zero, one message as the last line of stderr that names the file, and no mask.
refuses() { # refuses WHAT INPUT_FOLDER WORD [ro]
  local status=0 last
  rm -rf "$work/refused"
  mkdir -m 777 "$work/refused"
  "$engine" run --rm "${PLATFORM_FLAGS[@]}" -v "$2:/input:ro" -v "$work/refused:/output:${4:-rw}" "$IMAGE" \
    > /dev/null 2> "$work/stderr" || status=$?
  last=$(tail -n 1 "$work/stderr")
  echo "  $1: exit status $status, '$last'"
  [ "$status" -ne 0 ] || die "$1: the run did not fail"
  grep -qiF "$3" <<< "$last" || die "$1: the last line of stderr does not name '$3'"
  if grep -q '^Traceback' "$work/stderr"; then die "$1: a traceback where a message should be"; fi
  [ -z "$(find "$work/refused" -type f)" ] || die "$1: a file was left: $(find "$work/refused" -type f)"
}
rm -rf "$work/cut" "$work/lone"
cp -R test/input "$work/cut"
pet=$(basename "$work"/cut/images/pet/*.mha)
truncate -s "$(($(stat -c %s "$work/cut/images/pet/$pet") / 2))" "$work/cut/images/pet/$pet"
refuses "PET cut in half" "$work/cut" "$pet"
cp -R test/input "$work/lone"
rm "$work"/lone/images/ct/*
refuses "no CT" "$work/lone" images/ct
refuses "read-only output" "$PWD/test/input" /output ro
say "broken inputs are refused"

# 6. With another expected mask test.sh must fail.
rm -rf "$work/wrong"
mkdir -p "$work/wrong"
cp -R test/input test/expected_output "$work/wrong/"
chmod -R a+rwX "$work/wrong"
"$engine" run --rm -i --network=none --entrypoint python3 -v "$work/wrong/expected_output:/expected" "$IMAGE" - << 'PY'
import pathlib

import SimpleITK as sitk

(file,) = pathlib.Path("/expected").rglob("*.mha")
sitk.WriteImage(sitk.ReadImage(str(file)) == 0, str(file))
PY
if SKIP_BUILD=1 TEST_FOLDER="$work/wrong" ./test.sh > "$work/wrong.log" 2>&1; then
  die "test.sh passed although the expected mask is another one"
fi
grep 'DIFFERENT: the mask is another one' "$work/wrong.log" || {
  cat "$work/wrong.log"
  die "test.sh failed for another reason than the mask"
}
say "test.sh fails where it should"

# 7. An image for another purpose, by the same scripts: invoke mode, edition IV, another bundle, and the files that the
#    platform of 2026 puts beside the images. The first image gets its name back afterwards.
"$engine" tag "$IMAGE" localhost/kept
rm -rf "$work/platform"
mkdir -p "$work/platform"
cp -R test/input test/expected_output "$work/platform/"
echo '{"points": []}' > "$work/platform/input/lesion-clicks.json"
cat > "$work/platform/input/inputs.json" << 'JSON'
[{"socket": {"slug": "pet-image", "relative_path": "images/pet", "is_image_kind": true}, "image": {"name": "p.mha"}},
 {"socket": {"slug": "ct-image", "relative_path": "images/ct", "is_image_kind": true}, "image": {"name": "c.mha"}},
 {"socket": {"slug": "lesion-clicks", "relative_path": "lesion-clicks.json", "is_image_kind": false}, "image": null}]
JSON
chmod -R a+rX "$work/platform"
API_METHOD=invoke EDITION=4 WEIGHTS=diwa ./build.sh > "$work/invoke.log" 2>&1 || {
  tail -n 60 "$work/invoke.log"
  die "build.sh failed with API_METHOD=invoke EDITION=4 WEIGHTS=diwa"
}
output=$(SKIP_BUILD=1 TEST_FOLDER="$work/platform" ./test.sh 2>&1) || {
  printf '%s\n' "$output"
  die "test.sh failed for an image of invoke mode and edition IV"
}
printf '%s\n' "$output" | tail -n 6
grep -q "API method invoke, autoPET edition 4, weights diwa" <<< "$output" || die "test.sh did not see what the image is for"
[ "$("$engine" run --rm --network=none --entrypoint ls "$IMAGE" weights)" = diwa ] || die "not only weights/diwa was copied"
for wrong in API_METHOD=serve EDITION=6 "WEIGHTS=eoa absent"; do
  if env "$wrong" ./build.sh > "$work/wrong.log" 2>&1; then
    die "the image was built with $wrong"
  fi
  grep "^build argument ${wrong%%=*}" "$work/wrong.log" || die "no message says what is wrong with $wrong"
done
"$engine" tag localhost/kept "$IMAGE"
"$engine" rmi localhost/kept > /dev/null # this name alone
say "an image of invoke mode, edition IV and another bundle answers, and wrong arguments are refused"

# 8. Export, check the sums, load, and test what was loaded.
rm -rf "$work/export"
COMPRESSION=1 ./export.sh "$work/export"
(cd "$work/export" && sha256sum --check --quiet ./*.sha256)
members=$(tar -tzf "$work/export/petct-lesion-segmentation-$VERSION-weights-eoa.tar.gz")
grep -qx manifest.json <<< "$members" || die "the exported weights have no manifest.json at their root"
"$engine" rmi --force "$IMAGE" > /dev/null
if there_is "$IMAGE"; then die "the image is still there"; fi
gunzip -c "$work/export/petct-lesion-segmentation-$VERSION.tar.gz" | "$engine" load --quiet
say "exported and loaded again"
SKIP_BUILD=1 ./test.sh
say "the loaded image passes"

# 9. The Dockerfile's other branch: a base that carries torch keeps it. Here torch is an empty package with a version that
#    requirements.txt does not ask for.
site=$("$engine" run --rm --network=none --entrypoint python3 "$BASE_IMAGE" -c \
  'import sysconfig; print(sysconfig.get_path("purelib"))')
rm -rf "$work/carrier"
mkdir -p "$work/carrier/torch" "$work/carrier/torch-9.9.9.dist-info"
printf '__version__ = "9.9.9"\nclass version:\n    cuda = None\n' > "$work/carrier/torch/__init__.py"
printf 'Metadata-Version: 2.1\nName: torch\nVersion: 9.9.9\n' > "$work/carrier/torch-9.9.9.dist-info/METADATA"
touch "$work/carrier/torch-9.9.9.dist-info/RECORD"
printf 'FROM %s\nCOPY torch %s/torch\nCOPY torch-9.9.9.dist-info %s/torch-9.9.9.dist-info\n' \
  "$BASE_IMAGE" "$site" "$site" > "$work/carrier/Dockerfile"
{
  "$engine" build --tag localhost/carrier "$work/carrier" &&
    "$engine" build --target libraries --build-arg BASE_IMAGE=localhost/carrier --tag localhost/carried .
} > "$work/carried.log" 2>&1 || {
  tail -n 60 "$work/carried.log"
  die "no image on a base that carries torch"
}
kept=$("$engine" run --rm --network=none --entrypoint python3 localhost/carried -c \
  'from importlib.metadata import distributions as d; print(*(x.version for x in d(name="torch")))')
[ "$kept" = 9.9.9 ] || die "the base's torch 9.9.9 was not kept: found '$kept'"
say "a base image's torch is kept, and no second one is installed"
say "container: all checks passed"
