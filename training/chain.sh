#!/usr/bin/env bash
# The whole chain, command by command, at smoke scale: a few minutes on 2 cores. What it trains is worth nothing.
#   training/chain.sh [FOLDER [KIND]]   default runs/chain volumes; what is done there already is not done again
# KIND slices: the same chain for the 2-D network; resenc: for a residual U-Net of nnU-Net's kind. Their encoders are not
# pre-trained by Models Genesis.
# Every command is one that training/README.md explains; PYTHON chooses the interpreter (default .venv/bin/python).
set -euo pipefail
case ${1:-} in -*)
  echo "usage: training/chain.sh [FOLDER [KIND]], got $*; KIND is volumes, slices or resenc" >&2
  exit 2
  ;;
esac
cd "$(dirname "$0")/.."
run=${1:-runs/chain}
python=${PYTHON:-.venv/bin/python}
kind=${2:-volumes}
case $kind in
  volumes) configs=training/configs/chain ;;
  slices | resenc) configs=training/configs/chain-$kind ;;
  *) echo "KIND must be volumes, slices or resenc, got $kind" >&2; exit 2 ;;
esac
mkdir -p "$run"

step() {
  printf '\n=== %s ===\n' "$*"
  "$python" -m training "$@"
}

step phantoms --seed 4 --count 6 --site A --output "$run/phantoms" --workers 2
step index "$run/phantoms" --output "$run/index.csv" --strict
step split "$run/index.csv" --output "$run/split.json" --validation 0.34 --by site
step prepare "$run/index.csv" --cache "$run/cache" --crop-suv-above 0.2
at=(--cache "$run/cache" --split "$run/split.json" --fold 0)
from=()
if [ "$kind" = volumes ]; then
  step pretrain --settings "$configs/pretrain.yaml" "${at[@]}" --run "$run/ct"
  from=(--ct-encoder "$run/ct/ct_encoder.safetensors")
fi
step train --settings "$configs/base.yaml" "${at[@]}" --run "$run/base" "${from[@]}"
step sweep "$configs/sweep.yaml" "${at[@]}" --base "$run/base" --runs "$run/members"
step select "$run"/members/*/ "${at[@]}" --output "$run/selection.json"
for method in eoa diwa; do
  if [ ! -d "$run/bundles/$method" ]; then
    step export "$run/selection.json" --choice "${method}_greedy" --name "chain-$kind-$method" \
      --output "$run/bundles/$method" --index "$run/index.csv" --data "6 phantoms, smoke scale" --licence MIT
  fi
done
step evaluate --index "$run/index.csv" --split "$run/split.json" --fold 0 --part validate --weights "$run/bundles/eoa" \
  --output "$run/scores.csv"
echo
echo "the bundles are '$run/bundles/eoa' and '$run/bundles/diwa'; process.py --weights takes either"
