#!/usr/bin/env bash
# One artifact on several devices: a table for each, a comparison with this machine, and one report of all.
#
#   bash examples/compare_devices.sh ARTIFACT [FOLDER] [USER@HOST …]
#
# A host is a board or a server with Python that ssh reaches; the artifact is copied there once. Without one, this machine
# is measured twice, which shows how far two runs differ by chance. OPTIONS adds options of `edgeskip bench run`, e.g.
# OPTIONS="--n-prompt 64 --n-gen 32 --no-quality".
set -euo pipefail

artifact=${1:?name an artifact: a folder or a .gguf file}
folder=${2:-devices}
hosts=("${@:3}")
rounds=${ROUNDS:-3}
mkdir -p "$folder"

# shellcheck disable=SC2086  # OPTIONS holds several words
measure() { edgeskip bench run "model=$artifact" --repetitions "$rounds" ${OPTIONS:-} "$@"; }

measure -o "$folder/here.jsonl"
if [ ${#hosts[@]} -eq 0 ]; then
  measure -o "$folder/again.jsonl"
fi
for host in ${hosts[@]+"${hosts[@]}"}; do
  measure --no-local --remote "$host" -o "$folder/${host//[^A-Za-z0-9]/_}.jsonl"
done

for run in "$folder"/*.jsonl; do
  [ "$run" = "$folder/here.jsonl" ] || edgeskip bench compare "$folder/here.jsonl" "$run" --other-device --fail-above 99%
done
edgeskip bench report "$folder"/*.jsonl -o "$folder/report.html" --overwrite
echo "$folder/report.html"
