"""Tasks of texts and depths on a few examples, of a size that trains in seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks import glue, nyu, ptb
from tasks.text.glue_dataset import GLUE
from tests.tasks.tiny_data import scenes, sentences

GLUE_OPTIONS = glue.Options(method="dense", batch=8, length=32, scoring=2, validation=0.2, learning_rate=3e-3)
PTB_OPTIONS = ptb.Options(
    method="dense", embedding=6, widths=(9, 7), window=5, batch=4, length=8, epochs=3, dropout=0.2, scoring=2
)
NYU_OPTIONS = nyu.Options(
    method="dense", encoder="resnet18", size=(32, 48), batch=4, scoring=2, validation=0.25, learning_rate=3e-3, epochs=3
)


def glue_task(folder: Path, task: Any = "rte", **changed: Any) -> glue.LanguageUnderstanding:
    """A task of GLUE on sentences that are written into the folder."""
    given = {"task_name": task, "data": str(folder), **sentences(folder, task if task in GLUE else "rte"), **changed}
    return glue.LanguageUnderstanding(replace(GLUE_OPTIONS, **given))


def ptb_task(folder: Path, **changed: Any) -> ptb.LanguageModelling:
    """Language modelling on the text in the folder."""
    return ptb.LanguageModelling(replace(PTB_OPTIONS, data=str(folder), **changed))


def nyu_task(folder: Path, **changed: Any) -> nyu.Depth:
    """Depth regression on the scenes in the folder, which are written there if it does not exist."""
    if not folder.exists():
        scenes(folder)
    return nyu.Depth(replace(NYU_OPTIONS, data=str(folder), **changed))
