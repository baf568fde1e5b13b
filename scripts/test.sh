#!/usr/bin/env bash
# Sets up .venv and runs the test suite; arguments go to pytest.
source "$(dirname "$0")/setup.sh"
exec python -m pytest "$@"
