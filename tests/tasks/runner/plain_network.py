"""``python -m tests.tasks.runner.plain_network TASK ARGUMENTS``: a task's command line that also knows a network
without batch norms, in which several processes compute what one does.
"""

from __future__ import annotations

import sys

from torch import nn

from tasks.nets.classifiers import NETWORKS
from tasks.runner import command_line


def plain(classes: int, size: int) -> nn.Module:
    layers = (nn.Conv2d(3, 12, 3, 2), nn.ReLU(), nn.Conv2d(12, 12, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, classes))


NETWORKS["plain"] = plain

if __name__ == "__main__":
    command_line.main(sys.argv[1], sys.argv[2:])
