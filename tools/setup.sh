#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes an interpreter ready for the Makefile and prints its path; all else goes to stderr.
#
#   tools/setup.sh [PYTHON]     default: the first of python3, python3.12, python3.11 that serves
#
# An interpreter that already has everything is used as it is: no venv, no network. Any other gets
# .venv, through which a torch and triton that serve are seen, not installed again.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { echo "graphrt set-up: $*" >&2; }

candidates=${1:-python3 python3.12 python3.11}
python=
for candidate in $candidates; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        python=$candidate
        break
    fi
done
if [[ -z $python ]]; then
    say "no Python 3.11 or newer among: $candidates; install one, or name one: make setup PYTHON=/path/to/python3"
    exit 1
fi
path=$("$python" -c 'import sys; print(sys.executable)')

missing=$("$python" tools/missing.py)
if [[ -z $missing ]]; then
    say "$path has everything"
    echo "$path"
    exit
fi

constraints=constraints.txt
venv_options=
# A venv made from a venv would not see the first one's packages: that case installs them all.
if ! grep -qE '^(torch|triton)\b' <<<"$missing" &&
    "$python" -c 'import sys; sys.exit(sys.prefix != sys.base_prefix)'; then
    venv_options=--system-site-packages
    mkdir -p .setup
    constraints=.setup/constraints.txt
    grep -vE '^(torch|triton)==' constraints.txt >"$constraints"
elif [[ ! -e /dev/nvidia0 ]] && ! command -v nvidia-smi >/dev/null; then
    say "no NVIDIA GPU here; pip takes PyTorch's CPU build where its settings name one (constraints.txt)"
fi

say "installing into .venv with $path"
"$python" -m venv --clear $venv_options .venv >&2
.venv/bin/python -m pip install --disable-pip-version-check \
    --constraint "$constraints" --editable '.[test,lint]' >&2
echo "$PWD/.venv/bin/python"
