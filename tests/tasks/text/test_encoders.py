"""Encoders as people have them in folders: what is damaged, missing, another's or no encoder is a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from earlycrop.utils.torchvision_compat import load_torchvision
from tasks.text import encoders
from tests.tasks.tiny_data import tiny_bert

transformers: Any = load_torchvision("transformers")
SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 49}
ROBERTA = {**SIZES, "max_position_embeddings": 34, "pad_token_id": 1}
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 4, "vocab_size": 49, "bos_token_id": 0, "eos_token_id": 0}
XLNET = {"d_model": 24, "n_layer": 2, "n_head": 4, "d_inner": 32, "vocab_size": 49}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_bert(tmp_path / "bert")


def read(folder: Path) -> Any:
    return encoders.pretrained(encoders.encoder(str(folder), 2))


def without_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def cut(length: Callable[[int], int]) -> Callable[[Path], None]:
    """Leave so many bytes of the weights."""

    def change(folder: Path) -> None:
        file = folder / "model.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[: length(len(content))])

    return change


def configured(**values: Any) -> Callable[[Path], None]:
    """Other values in config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def of_kind(kind: str, **values: Any) -> Callable[[Path], None]:
    """The configuration of another architecture."""
    return lambda folder: getattr(transformers, f"{kind}Config")(**values).save_pretrained(folder)


def no_tokenizer_file(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"added_tokens": [], "model": {"type": "nonesuch"}}')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_tokenizer, r"tokenizer of FOLDER knows no words: put the tokenizer's files, such as"),
        (no_tokenizer_file, r"the tokenizer of FOLDER cannot be read \(.+\): --model takes"),
        (cut(lambda size: size // 2), r"^the weights of FOLDER cannot be read \(.*metadata.*\): fetch them anew"),
        (cut(lambda size: 10), r"^the weights of FOLDER cannot be read \(.*header.*\): fetch them anew"),
        (cut(lambda size: 0), r"^the weights of FOLDER cannot be read \(.*header.*\): fetch them anew"),
        (configured(hidden_size="abc"), r"^FOLDER/config.json cannot be used \(.*'hidden_size' expected int.*\): mend"),
        (configured(num_attention_heads=5), r"the model FOLDER cannot be made \(.*heads.*\): mend its config.json"),
        (configured(model_type="own", auto_map={"AutoConfig": "own.Own"}), r"the model FOLDER .*contains custom code"),
        (configured(is_decoder=True), r"FOLDER is a decoder \(bert\), and reads a word without those behind it: take"),
        (of_kind("Llama", **SIZES), r"FOLDER is a decoder \(llama\)"),
        (of_kind("GPT2", **GPT2), r"FOLDER is a decoder \(gpt2\)"),
        (of_kind("Roberta", **ROBERTA, type_vocab_size=1), "FOLDER tells 2 types of tokens apart and its model has 1"),
    ],
)
def test_what_cannot_be_is_a_sentence(change: Callable[[Path], None], message: str, folder: Path) -> None:
    change(folder)
    with pytest.raises(ValueError, match=message.replace("FOLDER", str(folder))) as raised:
        read(folder)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("change", "longest"),
    [
        (configured(max_position_embeddings=64), 64),
        (of_kind("Roberta", **ROBERTA, type_vocab_size=2), 34 - 1 - 1),  # positions begin behind that of padding
        (of_kind("XLNet", **XLNET), 128),  # the tokenizer's
    ],
)
def test_an_encoder_takes_as_many_tokens_as_it_says_and_no_more(
    change: Callable[[Path], None], longest: int, folder: Path
) -> None:
    change(folder)
    encoder = encoders.encoder(str(folder), 2)
    assert encoder.longest == longest
    model = transformers.AutoModelForSequenceClassification.from_config(encoder.config).eval()
    words = torch.arange(5, 37).repeat(4)[None]  # what is neither padding nor special
    assert model(input_ids=words[:, :longest]).logits.shape == (1, 2)
    if longest < 128:
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=words[:, : longest + 1])
