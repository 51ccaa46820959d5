#!/usr/bin/env bash
# Build the image, run it on the sample as grand-challenge.org would, and compare the mask with the expected one. Any
# difference is an error. The image says what it was built for: one of API_METHOD=invoke is started, asked for its health
# and for the job, and stopped.
#   CONTAINER_ENGINE, BASE_IMAGE, API_METHOD, EDITION, WEIGHTS  as in build.sh
#   LESION_PRECISION  as --precision; default float32, in which the expected mask was computed
#   MEMORY       limit of the container; default 30g, the platform's
#   SKIP_BUILD   1: test the image that is there
#   TEST_FOLDER  folder with input/ and expected_output/, or expected_output_<bundle>/; default test
[ $# -eq 0 ] || {
  echo "usage: ./test.sh, without arguments; environment variables choose, as the head of the file says; got: $*" >&2
  exit 2
}
case $0 in */*) cd "${0%/*}" ;; esac
. ./engine.sh

sample=$(cd "${TEST_FOLDER:-test}" && pwd) || fail "there is no folder '${TEST_FOLDER:-test}'"
refuse_lfs_pointers weights "$sample/input" "$sample"/expected_output*

if [ "${SKIP_BUILD:-}" != 1 ]; then
  ./build.sh
fi
"$ENGINE" image inspect "$IMAGE" > /dev/null 2>&1 || fail "there is no image $IMAGE: build it with ./build.sh"
read_image
expected=$sample/expected_output_$BUNDLE
case $BUNDLE in eoa | diwa) expected=$sample/expected_output ;; esac # both give the same mask of the sample
if [ ! -d "$expected" ] && [ -n "${TEST_FOLDER:-}" ]; then expected=$sample/expected_output; fi
[ -d "$expected" ] || fail "the image's weights are '$BUNDLE', and there is no mask to compare with in '$expected'; \
give a study with its mask in TEST_FOLDER"
echo "$IMAGE: API method $METHOD, autoPET edition $EDITION, weights $BUNDLE"

output=$(mktemp -d)
container=petct-lesion-segmentation-test-$$
clean_up() {
  "$ENGINE" rm -f "$container" > /dev/null 2>&1 || true
  # This user may not be able to remove folders of the image's user, who then does it.
  rm -rf "$output" 2> /dev/null && return
  "$ENGINE" run --rm --network=none --security-opt=label=disable --entrypoint sh -v "$output:/output" \
    "$IMAGE" -c 'rm -rf /output/*' || true
  rm -rf "$output"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
chmod 777 "$output" # this machine does not know the image's user

# An engine may ignore the flag, so look for the device inside a container.
case $("$ENGINE" --version) in
  *podman*) gpu=(--device nvidia.com/gpu=all) ;;
  *) gpu=(--gpus all) ;;
esac
if "$ENGINE" run --rm --network=none "${gpu[@]}" --entrypoint sh "$IMAGE" \
  -c 'test -e /dev/nvidiactl || test -e /dev/dxg' > /dev/null 2>&1; then
  echo "GPU: yes, ${gpu[*]}"
else
  echo "GPU: no NVIDIA device reaches a container here; running on the CPU, without ${gpu[*]}"
  gpu=()
fi

# Print the path of the kernel's record of the container's peak memory, in bytes; nothing if there is none.
peak_file() {
  local id pid line
  read -r id pid < <("$ENGINE" inspect --format '{{.Id}} {{.State.Pid}}' "$container" 2> /dev/null) || return 0
  [ -r "/proc/$pid/cgroup" ] || return 0
  while IFS= read -r line; do
    case $line in # with the id it is the container's own, not a process of an engine on another machine
      0::*"$id"*) echo "/sys/fs/cgroup${line#0::}/memory.peak" ;;
      *:memory:*"$id"*) echo "/sys/fs/cgroup/memory${line#*:memory:}/memory.max_usage_in_bytes" ;;
    esac
  done 2> /dev/null < "/proc/$pid/cgroup" | while IFS= read -r line; do
    if [ -r "$line" ]; then echo "$line"; fi
  done
}

# ask METHOD PATH SECONDS: print the status that the service in the container answers; nothing if it does not.
ask() {
  "$ENGINE" exec -i "$container" python3 - "$@" 2> /dev/null << 'PY'
import http.client
import sys

method, path, seconds = sys.argv[1:]
connection = http.client.HTTPConnection("127.0.0.1", 4743, timeout=float(seconds))
connection.request(method, path)
print(connection.getresponse().status)
PY
}

# The platform's invoke mode: healthy within 300 s, one job, the end. Afterwards the container is gone.
invoke() {
  local status=""
  while kill -0 "$run" 2> /dev/null && [ "$status" != 200 ] && [ $((SECONDS - started)) -lt 300 ]; do
    status=$(ask GET /health 10) || sleep 1
  done
  echo "GET /health: '$status' after $((SECONDS - started)) s"
  if [ "$status" = 200 ]; then
    status=$(ask POST /invoke 3600) || true
    echo "POST /invoke: '$status' after $((SECONDS - started)) s"
  fi
  "$ENGINE" stop --time 60 "$container" > /dev/null 2>&1 || true
  [ "$status" = 201 ]
}

started=$SECONDS
"$ENGINE" run --rm --name "$container" "${PLATFORM_FLAGS[@]}" --security-opt=label=disable \
  --env LESION_PRECISION="${LESION_PRECISION:-float32}" \
  ${gpu[@]+"${gpu[@]}"} -v "$sample/input:/input:ro" -v "$output:/output" "$IMAGE" &
run=$!
invoked=0
if [ "$METHOD" = invoke ]; then
  invoke &
  client=$!
fi
peak=0
file=""
while kill -0 "$run" 2> /dev/null; do
  [ -n "$file" ] || file=$(peak_file || true)
  if bytes=$(cat "$file" 2> /dev/null) && [ -n "$bytes" ]; then peak=$bytes; fi
  sleep 0.2
done
status=0
wait "$run" || status=$?
if [ "$METHOD" = invoke ]; then
  wait "$client" || invoked=$?
fi
if [ "$peak" -gt 0 ]; then
  memory="peak memory $((peak >> 20)) MiB of the container (file cache included), limit $MEMORY"
else
  memory="peak memory not readable on this machine"
fi
echo "the run took $((SECONDS - started)) s from start to end of the container; $memory"
case $status in
  0) ;;
  137) fail "the container was killed (exit 137), most likely because it needed more than $MEMORY of memory" ;;
  *) fail "the container exited with $status; the last line it wrote to stderr says why" ;;
esac
[ "$invoked" -eq 0 ] || fail "the service was not healthy within 300 s, or did not answer 201; see above"

"$ENGINE" run --rm --network=none --read-only --tmpfs /tmp --security-opt=label=disable --entrypoint python3 \
  -v "$PWD/test/compare_output.py:/compare/compare_output.py:ro" -v "$sample/input:/compare/input:ro" \
  -v "$expected:/compare/expected_output:ro" -v "$output:/compare/output:ro" \
  "$IMAGE" /compare/compare_output.py /compare/input /compare/expected_output /compare/output "$EDITION" ||
  fail "the output of $IMAGE is not the expected one"
echo "test of $IMAGE passed"
