#!/usr/bin/env bash
# Sets up .venv and runs the test suite; arguments go to pytest.
source "$(dirname "$0")/setup.sh"
# One thread in each of two processes: on networks this small, threads cost more than they bring.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# In the order of tests/conftest.py: what takes long begins first.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
