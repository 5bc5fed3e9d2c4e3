"""Measurements side by side: ``python -m benchmarks.NAME [--quick] [--out FILE]``.

Each prints a table and writes its rows, with the machine and the versions, to ``benchmarks/results/NAME.csv``.
"""

from tasks import _imports as _imports
