# Sourced by demo.sh and test.sh: makes .venv once and installs drivegen into it; an existing one is reused.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; then
    echo "drivegen needs Python 3.11 or 3.12; '$python' is $("$python" --version 2>&1). Name another with PYTHON=python3.11." >&2
    exit 2
fi
# A .venv whose making was interrupted has a Python and no pip: it is completed, or where that fails made anew.
whole() { .venv/bin/python -m pip --version > /dev/null 2>&1; }
whole || { "$python" -m venv .venv && whole; } || "$python" -m venv --clear .venv
stamp=$(cat pyproject.toml constraints.txt | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv/.drivegen-installed 2>/dev/null)" != "$stamp" ]; then
    echo "Installing drivegen into .venv (once, a few minutes) ..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
    echo "$stamp" > .venv/.drivegen-installed
fi
export PATH="$PWD/.venv/bin:$PATH"
