"""Models of transformers, made from a configuration: cut correctly without code for any of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import earlycrop
from earlycrop import shrink, trace
from earlycrop.graph.graph import Graph
from earlycrop.utils.torchvision_compat import load_torchvision
from tests.oracles import some_nodes

transformers = pytest.importorskip("transformers")
load_torchvision()  # transformers imports it where it is installed

pytestmark = pytest.mark.usefixtures("without_type_checks")

TEXT: dict[str, Any] = {
    "vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "max_position_embeddings": 32,
}  # fmt: skip
SEEN: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
BART: dict[str, Any] = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": 50, "d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4,
}  # fmt: skip
WHISPER: dict[str, Any] = {
    **BART, "vocab_size": 60, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
DEBERTA: dict[str, Any] = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8}
WAV2VEC: dict[str, Any] = {
    "vocab_size": 20, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40,
    "conv_dim": (8, 8, 8), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3), "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}  # fmt: skip


def tokens(width: int = 12) -> Tensor:
    return torch.randint(3, 20, (2, width))


def text() -> dict[str, Tensor]:
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[1, 8:] = 0
    return {"input_ids": tokens(), "attention_mask": mask}


def translation() -> dict[str, Tensor]:
    return {**text(), "decoder_input_ids": tokens(6)}


def image() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


def speech() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 8, 32), "decoder_input_ids": tokens(6)}


def wave() -> dict[str, Tensor]:
    return {"input_values": torch.randn(2, 800)}


def ids() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


def head(kind: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: getattr(transformers, kind)(getattr(transformers, f"{config}Config")(**options))


def classifier(name: str, **options: Any) -> Callable[[], nn.Module]:
    return head(f"{name}ForSequenceClassification", name, **{**TEXT, **options})


def causal(name: str, **options: Any) -> Callable[[], nn.Module]:
    return head(f"{name}ForCausalLM", name, **{**TEXT, **options})


ATTENTION_AND_FEED_FORWARD = 2 * 4 + 2 * 40
"""Two layers with four heads and forty neurons each."""
MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], int]] = {
    # the poolers' and classifiers' hidden 24 units go too
    "bert": (classifier("Bert"), text, ATTENTION_AND_FEED_FORWARD + 24),
    "bert-eager": (classifier("Bert", attn_implementation="eager"), text, ATTENTION_AND_FEED_FORWARD + 24),
    "distilbert": (
        head("DistilBertForSequenceClassification", "DistilBert", vocab_size=50, dim=24, n_layers=2, n_heads=4,
             hidden_dim=40, max_position_embeddings=32),
        text, ATTENTION_AND_FEED_FORWARD + 24,
    ),
    "roberta": (classifier("Roberta", pad_token_id=1), text, ATTENTION_AND_FEED_FORWARD + 24),
    "albert": (classifier("Albert", embedding_size=16), text, 4 + 40 + 24),  # one layer, used twice
    "electra": (classifier("Electra", embedding_size=16), text, ATTENTION_AND_FEED_FORWARD + 24),
    "deberta-v2": (classifier("DebertaV2", **DEBERTA), text, 2 * (4 + 40) + 48),
    "gpt2": (head("GPT2LMHeadModel", "GPT2", vocab_size=50, n_embd=24, n_layer=2, n_head=4, n_positions=32), text,
             2 * (4 + 96)),
    "llama": (causal("Llama", num_key_value_heads=2), text, 2 * (2 + 40)),  # two query heads go with a key's
    "qwen3": (causal("Qwen3", num_key_value_heads=2, head_dim=6), text, 2 * (2 + 40)),
    "t5": (head("T5ForConditionalGeneration", "T5", **T5), translation, 168),
    "t5-gated": (head("T5ForConditionalGeneration", "T5", **T5, feed_forward_proj="gated-gelu"), translation, 168),
    "bart": (head("BartForConditionalGeneration", "Bart", vocab_size=50, max_position_embeddings=32, **BART,
                  pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2), translation, 6 * 4 + 160),
    "vit": (head("ViTForImageClassification", "ViT", **SEEN), image, ATTENTION_AND_FEED_FORWARD),
    "convnext": (head("ConvNextForImageClassification", "ConvNext", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 2, 1],
                      image_size=32, patch_size=2), image, 288),
    "swin": (head("SwinForImageClassification", "Swin", embed_dim=8, depths=[2, 2], num_heads=[2, 4], image_size=32,
                  patch_size=2, window_size=4), image, 204),
    "whisper": (head("WhisperForConditionalGeneration", "Whisper", **WHISPER), speech, 6 * 4 + 160 + 24),
    "wav2vec2": (head("Wav2Vec2ForCTC", "Wav2Vec2", **WAV2VEC), wave, ATTENTION_AND_FEED_FORWARD + 16),
    "segformer": (head("SegformerForSemanticSegmentation", "Segformer", hidden_sizes=[8, 16, 40, 32], depths=[1] * 4,
                       decoder_hidden_size=16), image, 384 + 2 + 5 + 8 + 5 * 16),
    "mamba": (head("MambaForCausalLM", "Mamba", vocab_size=50, hidden_size=16, num_hidden_layers=2, state_size=4), ids,
              2 * (32 + 4)),
}  # fmt: skip


def build(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """The model with random weights, none of them 0 or 1."""
    torch.manual_seed(0)
    make, example, _ = MODELS[name]
    model = make().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3 if p.ndim > 1 else torch.rand_like(p) + 0.3)
    return model, example()


ALIKE = (
    *("bert-eager", "distilbert", "roberta", "electra", "deberta-v2", "qwen3"),
    *("t5-gated", "bart", "whisper", "wav2vec2", "segformer", "swin"),
)
"""Of a kind with others."""


@pytest.mark.parametrize("name", [pytest.param(m, marks=pytest.mark.slow) if m in ALIKE else m for m in MODELS])
def test_heads_and_neurons_go_and_a_file_holds_what_is_left(name: str, tmp_path: Path) -> None:
    model, example = build(name)
    graph = trace(model, example)
    assert graph.count == MODELS[name][2]
    for seed, share in enumerate((0.1, 0.5, 0.99)):
        small = copy.deepcopy(model)
        cut = shrink(small, graph, some_nodes(graph, share, seed))
        assert cut.difference is not None
        assert cut.difference <= 1e-5
    torch.manual_seed(0)
    fresh = MODELS[name][0]().eval()
    earlycrop.save(small, tmp_path)
    earlycrop.load(tmp_path, fresh)
    with torch.no_grad():
        for a, b in zip(leading(small(**example)), leading(fresh(**example)), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    again = trace(fresh, example)
    shrink(fresh, again, some_nodes(again, 0.3, 0))


def leading(output: Any) -> list[Tensor]:
    return [v for v in output.values() if isinstance(v, Tensor)]


def numbers_of_heads(model: nn.Module) -> set[int]:
    return {m.num_heads for m in model.modules() if isinstance(getattr(m, "num_heads", None), int)}


def test_attributes_that_hold_sizes_follow() -> None:
    model, example = build("gpt2")
    graph = trace(model, example)
    heads = [ids for key, ids in graph.groups.items() if ("transformer.h.0.attn.c_attn.weight", 1) in key]
    shrink(model, graph, heads[0][:1])
    first, second = (layer.attn for layer in model.transformer.h)
    assert (first.split_size, first.c_attn.nf, first.c_attn.weight.shape) == (18, 54, (24, 54))
    assert (second.split_size, second.c_attn.nf) == (24, 72)


def test_a_shrunk_model_that_is_saved_in_its_own_way_says_how_to_load_it(tmp_path: Path) -> None:
    model, example = build("bert")
    graph: Graph = trace(model, example)
    shrink(model, graph, some_nodes(graph, 0.5, 0))
    with pytest.warns(UserWarning, match="BertForSequenceClassification was shrunk, and from_pretrained will refuse"):
        model.save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        type(model).from_pretrained(tmp_path)
    fresh = earlycrop.load(tmp_path / "earlycrop", type(model)(type(model.config).from_pretrained(tmp_path))).eval()
    with torch.no_grad():
        torch.testing.assert_close(fresh(**example).logits, model(**example).logits, rtol=0, atol=0)
