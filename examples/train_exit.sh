#!/usr/bin/env bash
# A trained exit block for a model that stays as it is, and an artifact that drafts with it. Needs the extra `train`.
#
#   bash examples/train_exit.sh [FOLDER]
#
# MODEL, EXIT and STEPS are variables. A few hundred steps on a CPU (about an hour) make a draft that is worth it; the
# default here only shows the way.
set -euo pipefail

folder=${1:-exit}
model=${MODEL:-smollm2-135m-instruct}
exit_layer=${EXIT:-4}
steps=${STEPS:-20}
mkdir -p "$folder"

# What the exits are trained from: a profile of the model.
edgeskip calibrate "$model" --tokens 4096 --decode-tokens 0 --exits "$exit_layer" --name model -o "$folder/model.json"

# The model writes its own examples (--data self), and the exit's block learns to predict them.
edgeskip train "$folder/model.json" --method exit-adapter --exits "$exit_layer" --data self \
  --steps "$steps" --batch-size 4 --new-tokens 32 --context 128 -o "$folder/run"

# The first blocks and the trained block draft, the whole model verifies: the text is the same as without a draft.
edgeskip export "$folder/run/model.json" -o "$folder/artifact" --draft early-exit --exit-layer "$exit_layer"
edgeskip run "$folder/artifact" -p "Write one sentence about rain." --max-tokens 32 --strategy speculative
