#!/usr/bin/env bash
# Build the image, run it on the sample as grand-challenge.org would, and compare the mask with the
# expected one.  Exits non-zero on any difference.
#   CONTAINER_ENGINE, BASE_IMAGE  as in build.sh
#   MEMORY       limit of the container; default 30g, the platform's
#   SKIP_BUILD   1: test the image that is there
#   TEST_FOLDER  folder with input/ and expected_output/; default test
case $0 in */*) cd "${0%/*}" ;; esac
. ./engine.sh

sample=$(cd "${TEST_FOLDER:-test}" && pwd) || fail "there is no folder '${TEST_FOLDER:-test}'"
refuse_lfs_pointers weights "$sample/input" "$sample/expected_output"

if [ "${SKIP_BUILD:-}" != 1 ]; then
  ./build.sh
fi
"$ENGINE" image inspect "$IMAGE" > /dev/null 2>&1 || fail "there is no image $IMAGE: build it with ./build.sh"

output=$(mktemp -d)
container=petct-lesion-segmentation-test-$$
clean_up() {
  "$ENGINE" rm -f "$container" > /dev/null 2>&1 || true
  # Folders made by the image's user may be beyond this user: then the image's user removes them.
  rm -rf "$output" 2> /dev/null && return
  "$ENGINE" run --rm --network=none --security-opt=label=disable --entrypoint sh -v "$output:/output" \
    "$IMAGE" -c 'rm -rf /output/*' || true
  rm -rf "$output"
}
trap clean_up EXIT
trap 'exit 130' INT TERM
chmod 777 "$output" # the image's user is nobody on this machine

# Only a container that sees a device proves that there is one: an engine may ignore the flag.
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

# The file with the kernel's own record of the container's peak, in bytes; nothing where there is none.
peak_file() {
  local id pid line
  read -r id pid < <("$ENGINE" inspect --format '{{.Id}} {{.State.Pid}}' "$container" 2> /dev/null) || return 0
  [ -r "/proc/$pid/cgroup" ] || return 0
  while IFS= read -r line; do
    case $line in # the id tells the container's process from another one, of an engine on another machine
      0::*"$id"*) echo "/sys/fs/cgroup${line#0::}/memory.peak" ;;
      *:memory:*"$id"*) echo "/sys/fs/cgroup/memory${line#*:memory:}/memory.max_usage_in_bytes" ;;
    esac
  done 2> /dev/null < "/proc/$pid/cgroup" | while IFS= read -r line; do
    if [ -r "$line" ]; then echo "$line"; fi
  done
}

started=$SECONDS
"$ENGINE" run --rm --name "$container" "${PLATFORM_FLAGS[@]}" --security-opt=label=disable \
  ${gpu[@]+"${gpu[@]}"} -v "$sample/input:/input:ro" -v "$output:/output" "$IMAGE" &
run=$!
peak=0
file=""
while kill -0 "$run" 2> /dev/null; do
  [ -n "$file" ] || file=$(peak_file || true)
  if bytes=$(cat "$file" 2> /dev/null) && [ -n "$bytes" ]; then peak=$bytes; fi
  sleep 0.2
done
status=0
wait "$run" || status=$?
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

"$ENGINE" run --rm --network=none --read-only --tmpfs /tmp --security-opt=label=disable --entrypoint python3 \
  -v "$PWD/test/compare_output.py:/compare/compare_output.py:ro" -v "$sample/input:/compare/input:ro" \
  -v "$sample/expected_output:/compare/expected_output:ro" -v "$output:/compare/output:ro" \
  "$IMAGE" /compare/compare_output.py /compare/input /compare/expected_output /compare/output ||
  fail "the output of $IMAGE is not the expected one"
echo "test of $IMAGE passed"
