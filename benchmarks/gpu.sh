#!/usr/bin/env bash
# What only a GPU can show, on a machine that has torch, transformers, accelerate, timm and peft but no network:
#   make gpu-wheels                # before, where there is a network: the packages that such a machine lacks
#   benchmarks/gpu.sh tests OUT    # pytest -m gpu, its report in OUT/gpu_tests.xml
#   benchmarks/gpu.sh speed OUT    # python -m benchmarks gpu, its JSON in OUT/gpu.json; further options follow
# Each call takes less than seven minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-}
out=${2:-}
python=${PYTHON:-python3}
case $what in tests | speed) ;; *) echo "usage: benchmarks/gpu.sh tests|speed OUT [options]" >&2 && exit 2 ;; esac
[ -n "$out" ] || { echo "error: name a folder for the results" >&2 && exit 2; }
mkdir -p "$out"
for wheel in wheels/*.whl; do # each for itself: one that does not fit must not stop the others
  "$python" -m pip install --quiet --no-index --no-deps "$wheel" || echo "not installed: $wheel"
done
"$python" -c 'import torch; print(torch.__version__, torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
if [ "$what" = tests ]; then
  "$python" -m pytest -m gpu --junit-xml "$out/gpu_tests.xml" tests/test_gpu.py
else
  "$python" -m benchmarks gpu --minutes 6 --out "$out/gpu.json" "${@:3}"
fi
