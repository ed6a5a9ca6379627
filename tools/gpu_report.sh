#!/usr/bin/env bash
# One command on a machine with an NVIDIA GPU and CUDA 13: parity, benchmark, one JSON in docs/results.
#   bash tools/gpu_report.sh [options of tools/benchmarks/gpu_report.py]
# Makes its own environment in build/gpu (some GB: torch and CUDA's libraries). EDGESKIP_GPU_PYTHON names an interpreter
# that has everything instead, e.g. on a machine without network; nothing is installed then.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! nvidia-smi -L >/dev/null 2>&1; then
  echo "gpu_report: nvidia-smi finds no GPU here: run this on a machine with an NVIDIA GPU and its driver" >&2
  exit 2
fi
nvidia-smi -L

if [ -n "${EDGESKIP_GPU_PYTHON:-}" ]; then
  python=$EDGESKIP_GPU_PYTHON
else
  base=${PYTHON:-python3}
  "$base" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || { echo "gpu_report: EdgeSkip needs Python 3.11 or newer: name one with PYTHON=python3.12" >&2; exit 2; }
  python=build/gpu/bin/python
  if [ ! -f build/gpu/.installed ]; then
    echo "== environment: build/gpu"
    "$base" -m venv build/gpu
    "$python" -m pip install -qq --upgrade pip
    "$python" -m pip install -qq -e '.[export,plot]' torch nvidia-ml-py
    # The GPU build takes the CPU build's place: both at once overwrite each other's files.
    "$python" -m pip uninstall -qq -y onnxruntime
    "$python" -m pip install -qq 'onnxruntime-gpu[cuda,cudnn]>=1.27'
    "$python" -m pip install -qq --no-deps onnxruntime-genai-cuda \
      || echo "gpu_report: onnxruntime-genai-cuda cannot be installed here, it is left out" >&2
    touch build/gpu/.installed
  fi
fi

exec "$python" tools/benchmarks/gpu_report.py "$@"
