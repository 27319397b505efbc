"""Stands where PyTorch would be: says how it was started, and starts the script."""

import runpy
import sys

print(*sys.argv[1:4])
sys.argv = sys.argv[4:]
runpy.run_path(sys.argv[0], run_name="__main__")
