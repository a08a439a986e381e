#!/bin/sh
# Puts uv into .tools/ of this repository, from PyPI, and nothing anywhere else. Needs Python 3.10+ with pip.
set -eu
cd "$(dirname "$0")/.."
if [ -x .tools/bin/uv ] || [ -x .tools/Scripts/uv.exe ]; then exit 0; fi
for python in python3 python python3.14 python3.13 python3.12 python3.11 python3.10; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then found=$python; break; fi
done
if [ -z "${found:-}" ]; then
    echo "bootstrap: no Python 3.10 or newer is on the PATH: install one." >&2
    exit 1
fi
# Debian's Python has pip without venv, others venv without a global pip: either will do.
if "$found" -m venv .tools >/dev/null 2>&1 && .tools/bin/python -m pip install --quiet --disable-pip-version-check uv; then exit 0; fi
rm -rf .tools
"$found" -m pip install --quiet --disable-pip-version-check --target .tools/lib uv
mkdir -p .tools/bin
ln -s ../lib/bin/uv .tools/bin/uv
