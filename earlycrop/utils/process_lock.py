"""The lock around everything that is set for the whole process."""

from __future__ import annotations

import threading

PROCESS_LOCK = threading.RLock()
"""Held while settings of torch that all threads share (kernels, precision, random states) differ from the user's.

Two prunings in two threads would otherwise restore, at their end, what the other one had set.
"""
