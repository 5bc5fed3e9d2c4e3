"""Pretrained encoders of transformers, by their name on the hub or from a folder, with a head that classifies."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from earlycrop.utils.torchvision_compat import load_torchvision
from tasks.runner.errors import first_line, require
from tasks.runner.files import is_local

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
    longest: float
    """Tokens that it takes; infinite where there is no limit."""


def encoder(source: str, outputs: int) -> Encoder:
    """The encoder ``source`` with a head of so many outputs; its weights are not read yet.

    Raises:
        ValueError: it cannot be found or used, is no encoder or cannot classify sequences, or its tokenizer is missing
        or another model's.
    """
    require(bool(source), "--model is empty: it takes a model on the hub, or a folder with its files")
    if not Path(source).is_dir() and is_local(source):
        raise ValueError(f"there is no folder {source}: --model takes a model on the hub, or a folder with its files")
    with _quiet():
        config, config_name = _configuration(source, outputs)
        positions = _positions(source, config)
        tokenizer = _tokenizer(source, config)
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    name = Path(config_name if config_name and Path(source).is_dir() else source).absolute().name
    return Encoder(source, config, tokenizer, name, min(positions, tokenizer.model_max_length))


_WHERE = "--model takes a model on the hub, or a folder with config.json, model.safetensors and tokenizer.json"
_INSTEAD = "take an encoder such as bert-base-uncased"


def _configuration(source: str, outputs: int) -> tuple[Any, str | None]:
    """The configuration of an encoder that can classify sequences, and what name it has for itself."""
    from huggingface_hub.errors import StrictDataclassError

    transformers: Any = load_torchvision("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(source, num_labels=outputs, trust_remote_code=False)
        config_name = transformers.PretrainedConfig.get_config_dict(source)[0].get("_name_or_path")
    except StrictDataclassError as error:  # a value is of another type than it must be
        fault = first_line(error.__cause__ or error)
        raise ValueError(f"{Path(source) / 'config.json'} cannot be used ({fault}): mend it") from None
    except (OSError, ValueError, KeyError) as error:  # none there, an architecture that transformers has not
        raise ValueError(f"the model {source} cannot be read ({first_line(error)}): {_WHERE}") from None
    kinds, kind = transformers.models.auto.modeling_auto, config.model_type
    is_a = f"{source} is a {kind}"
    classifying = kinds.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    require(kind in classifying, f"{is_a}, which has no head for classifying sequences: {_INSTEAD}")
    require(not config.is_encoder_decoder, f"{is_a}, which has a decoder too: {_INSTEAD}")
    # What only tells the next word sees none of those behind it, and has no head for what needs them.
    behind = {*kinds.MODEL_FOR_MASKED_LM_MAPPING_NAMES, *kinds.MODEL_FOR_MULTIPLE_CHOICE_MAPPING_NAMES}
    decoder = kind in kinds.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and kind not in behind
    decoder = decoder or getattr(config, "is_decoder", False) or getattr(config, "causal", False)  # which some can be
    require(not decoder, f"{source} is a decoder ({kind}), and reads a word without those behind it: {_INSTEAD}")
    return config, config_name


def _positions(source: str, config: Any) -> float:
    """Tokens that the model has positions for, without an end where it has no such number.

    Those of a table with a row for padding begin behind that row, as RoBERTa's do.
    """
    try:
        with torch.device("meta"):
            model = load_torchvision("transformers").AutoModelForSequenceClassification.from_config(config)
    except (ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"the model {source} cannot be made ({first_line(error)}): mend its config.json") from None
    max_positions: float | None = getattr(config, "max_position_embeddings", None)
    if max_positions is None or max_positions < 0:
        return math.inf
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            max_positions = min(max_positions, module.num_embeddings - module.padding_idx - 1)
    return max_positions


def _tokenizer(source: str, config: Any) -> Any:
    """The tokenizer, which knows words, can pad, and has no more tokens and types of them than the model."""
    try:
        tokenizer = load_torchvision("transformers").AutoTokenizer.from_pretrained(source)
    except Exception as error:
        # of the library tokenizers every error is an Exception and no more than that
        if type(error) is not Exception and not isinstance(error, OSError | ValueError | KeyError | ImportError):
            raise
        raise ValueError(f"the tokenizer of {source} cannot be read ({first_line(error)}): {_WHERE}") from None
    of = f"the tokenizer of {source}"
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):  # as transformers makes it of nothing
        raise ValueError(f"{of} knows no words: put the tokenizer's files, such as tokenizer.json, beside config.json")
    require(tokenizer.pad_token_id is not None, f"{of} has no padding token: {_INSTEAD}")
    remedy = "put the model's own tokenizer beside it"
    require(
        len(tokenizer) <= config.vocab_size,
        f"{of} has {len(tokenizer)} tokens and its model {config.vocab_size}: {remedy}",
    )
    types = 1 + max(tokenizer("a", "a").get("token_type_ids", [0]))
    known = getattr(config, "type_vocab_size", None) or types  # with none, they are not looked at
    require(types <= known, f"{of} tells {types} types of tokens apart and its model has {known}: {remedy}")
    return tokenizer


def pretrained(spec: Encoder) -> nn.Module:
    """The encoder with its weights; what it has no weights for, the head, is drawn from torch's random state.

    Raises:
        ValueError: the weights cannot be read, or are not this architecture's.
    """
    with _quiet():
        try:
            model, loading = load_torchvision("transformers").AutoModelForSequenceClassification.from_pretrained(
                spec.source,
                config=copy.deepcopy(spec.config),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except SafetensorError as error:
            raise ValueError(
                f"the weights of {spec.source} cannot be read ({first_line(error)}): fetch them anew"
            ) from None
        except (OSError, RuntimeError) as error:
            raise ValueError(f"the weights of {spec.source} cannot be read ({first_line(error)}): {_WHERE}") from None
    inside = f"{model.base_model_prefix}."
    for trouble in ("missing_keys", "mismatched_keys"):
        keys = sorted(key if isinstance(key, str) else key[0] for key in loading[trouble])
        odd = [k for k in keys if k.startswith(inside) and not any(part in k for part in NEW)]
        if odd:
            what = "have no" if trouble == "missing_keys" else "have another size of"
            raise ValueError(
                f"the weights of {spec.source} {what} {odd[0]}: they are not those of the {spec.config.model_type} "
                "that its config.json describes (a model that was pruned is loaded by earlycrop.load)"
            )
    module: nn.Module = model.float()
    return module


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the reports and bars of loading: that a head is new is what is wanted here."""
    log: Any = load_torchvision("transformers").logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
