"""Pretrained encoders of transformers, by their name on the hub or from a folder, with a head that classifies."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tasks._sentences import first_line
from tasks._tables import local
from tasks._torchvision import load

NEW = ("pooler",)
"""Parts of an encoder that a checkpoint may lack: they are trained with the head."""


@dataclass(frozen=True)
class Encoder:
    """An architecture, its tokenizer, and where its weights are."""

    source: str
    config: Any
    tokenizer: Any
    name: str
    """For records: the hub's name without its owner, or that of the folder's own configuration."""
    longest: int
    """Tokens that it takes."""


def encoder(source: str, outputs: int) -> Encoder:
    """The encoder ``source`` with a head of so many outputs; its weights are not read yet.

    Raises:
        ValueError: it cannot be found, cannot classify sequences, or its tokenizer is another model's or cannot pad.
    """
    if not Path(source).is_dir() and local(source):
        raise ValueError(f"there is no folder {source}: --model takes a model on the hub, or a folder with its files")
    transformers: Any = load("transformers")
    classifying = transformers.models.auto.modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    with _quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(source, num_labels=outputs)
            told = transformers.PretrainedConfig.get_config_dict(source)[0].get("_name_or_path")
        except (OSError, ValueError, KeyError) as error:  # none there, an architecture that transformers has not
            raise ValueError(f"the model {source} cannot be read ({first_line(error)}): {_WHERE}") from None
        if config.model_type not in classifying:
            raise ValueError(
                f"{source} is a {config.model_type}, which has no head for classifying sequences: take an encoder "
                "such as bert-base-uncased"
            )
        if config.is_encoder_decoder:
            raise ValueError(
                f"{source} is a {config.model_type}, which has a decoder too: take an encoder such as bert-base-uncased"
            )
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise ValueError(f"the tokenizer of {source} cannot be read ({first_line(error)}): {_WHERE}") from None
    if tokenizer.pad_token_id is None:
        raise ValueError(f"the tokenizer of {source} has no padding token: take an encoder such as bert-base-uncased")
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer of {source} has {len(tokenizer)} tokens and its model {config.vocab_size}: put the model's "
            "own tokenizer beside it"
        )
    most = getattr(config, "max_position_embeddings", None) or tokenizer.model_max_length
    name = Path(told if told and Path(source).is_dir() else source).absolute().name
    return Encoder(source, config, tokenizer, name, min(most, tokenizer.model_max_length))


_WHERE = "--model takes a model on the hub, or a folder with config.json, model.safetensors and tokenizer.json"


def pretrained(held: Encoder) -> nn.Module:
    """The encoder with its weights; what it has no weights for, the head, is drawn from torch's random state.

    Raises:
        ValueError: the weights cannot be read, or are not this architecture's.
    """
    with _quiet():
        try:
            model, told = load("transformers").AutoModelForSequenceClassification.from_pretrained(
                held.source, config=copy.deepcopy(held.config), output_loading_info=True, ignore_mismatched_sizes=True
            )
        except (OSError, RuntimeError) as error:
            raise ValueError(f"the weights of {held.source} cannot be read ({first_line(error)}): {_WHERE}") from None
    inside = f"{model.base_model_prefix}."
    for trouble in ("missing_keys", "mismatched_keys"):
        keys = sorted(key if isinstance(key, str) else key[0] for key in told[trouble])
        odd = [k for k in keys if k.startswith(inside) and not any(part in k for part in NEW)]
        if odd:
            what = "have no" if trouble == "missing_keys" else "have another size of"
            raise ValueError(
                f"the weights of {held.source} {what} {odd[0]}: they are not those of the {held.config.model_type} "
                "that its config.json describes (a model that was pruned is loaded by earlycrop.load)"
            )
    module: nn.Module = model.float()
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the reports and bars of loading: that a head is new is what is wanted here."""
    log: Any = load("transformers").logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
