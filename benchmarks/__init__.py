"""Measurements side by side: ``python -m benchmarks.NAME [--quick] [--out FILE]``.

Each prints a table and writes its rows, with the machine and the versions, to ``benchmarks/results/NAME.csv``.
"""

from tasks import _missing as _missing  # says which package a program lacks
