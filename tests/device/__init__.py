"""Tests of what runs on a GPU: ``make test-device`` simulates one, and ``pytest tests/device --real`` uses a real one.

The simulated GPU has to be loaded before torch, so these tests have a process of their own. In any other they skip.
"""
