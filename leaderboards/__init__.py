"""Results: ``python -m leaderboards`` turns finished runs into records, a CSV, a table and a picture a task."""

from tasks.runner import interrupts as interrupts
