"""Families of transformers as small networks: the class, its configuration, and what it is called with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

TOKENS: dict[str, Any] = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TEXT: dict[str, Any] = {
    **TOKENS, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 32,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2, "use_cache": False}
GPT: dict[str, Any] = {**TOKENS, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32, "use_cache": False}
EXPERTS = {**GROUPED, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
SEEN: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
STAGES: dict[str, Any] = {"image_size": 32, "patch_size": 2, "depths": [1, 1, 2, 1]}
BART: dict[str, Any] = {
    **TOKENS, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "decoder_start_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A class ``NAMEForHEAD`` of transformers, the options of its configuration, and its inputs."""

    name: str
    head: str = "ForCausalLM"
    options: dict[str, Any] = field(default_factory=lambda: GROUPED)
    inputs: str = "tokens"

    def build(self) -> nn.Module:
        """Return the network with random weights, none of which is 0 or 1."""
        import transformers

        transformers.logging.set_verbosity_error()
        config = getattr(transformers, f"{self.name}Config")(**self.options)
        model: nn.Module = getattr(transformers, f"{self.name}{self.head}")(config).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn_like(p) * 0.3 if p.ndim > 1 else torch.rand_like(p) + 0.3)
        return model

    def example(self) -> dict[str, Tensor]:
        """Return a batch of two."""
        tokens = {"input_ids": torch.randint(3, 20, (2, 12))}
        return {
            "tokens": tokens,
            "translation": {**tokens, "decoder_input_ids": torch.randint(3, 20, (2, 6))},
            "images": {"pixel_values": torch.randn(2, 3, 32, 32)},
            "wave": {"input_values": torch.randn(2, 800)},
        }[self.inputs]


def _classifier(name: str, **options: Any) -> Family:
    return Family(name, "ForSequenceClassification", {**TEXT, **options})


def _causal(name: str, options: dict[str, Any] = GROUPED, **more: Any) -> Family:
    return Family(name, "ForCausalLM" if name != "GPT2" else "LMHeadModel", {**options, **more})


def _vision(name: str, options: dict[str, Any] = SEEN, **more: Any) -> Family:
    return Family(name, "ForImageClassification", {**options, **more}, "images")


FAMILIES: tuple[Family, ...] = (
    _classifier("Bert"),
    _classifier("Roberta"),
    _classifier("Albert", embedding_size=16),
    _classifier("Electra", embedding_size=16),
    _classifier("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    _classifier("ModernBert", global_attn_every_n_layers=2),
    _classifier("MPNet"),
    _causal("GPT2", GPT),
    _causal("GPTJ", GPT, rotary_dim=4),
    _causal("CodeGen", GPT, rotary_dim=4),
    _causal("GPTBigCode", GPT),
    _causal("GPTNeoX", TEXT, rotary_pct=0.25, use_cache=False),
    _causal("Bloom", TOKENS, hidden_size=32, n_layer=2, n_head=4, use_cache=False),
    _causal("OPT", TEXT, ffn_dim=48, word_embed_proj_dim=32, use_cache=False),
    _causal("Mpt", {"vocab_size": 50, "use_cache": False}, d_model=32, n_layers=2, n_heads=4, max_seq_len=32),
    _causal("Falcon", GROUPED, new_decoder_architecture=True, num_kv_heads=2),
    _causal("Llama"),
    _causal("Qwen3", head_dim=8),
    _causal("Gemma2", head_dim=8),
    _causal("Cohere"),
    _causal("Glm", head_dim=8),
    _causal("StableLm"),
    _causal("Phi"),
    _causal("Phi3"),
    _causal("Persimmon", TEXT, use_cache=False),
    _causal("Starcoder2"),
    _causal("Granite"),
    _causal("Nemotron"),
    _causal("Mixtral", num_local_experts=4),
    _causal("Qwen3Moe", EXPERTS, head_dim=8, num_experts=4),
    _causal("Olmoe", EXPERTS, num_experts=4),
    _causal("GptOss", EXPERTS, head_dim=8, num_local_experts=4, layer_types=["full_attention"] * 2),
    _causal(
        "DeepseekV3", EXPERTS, num_key_value_heads=4, q_lora_rank=12, kv_lora_rank=12, qk_rope_head_dim=4,
        qk_nope_head_dim=6, v_head_dim=8, n_routed_experts=4, n_group=1, topk_group=1, first_k_dense_replace=1,
    ),
    _causal("Mamba", TOKENS, hidden_size=32, num_hidden_layers=2, state_size=4, use_cache=False),
    _causal(
        "Mamba2", TOKENS, hidden_size=32, num_hidden_layers=2, state_size=4, num_heads=4, head_dim=16, n_groups=1,
        chunk_size=4, use_cache=False,
    ),
    Family("T5", "ForConditionalGeneration", {**TOKENS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
           "num_heads": 4, "decoder_start_token_id": 0}, "translation"),
    Family("Bart", "ForConditionalGeneration", BART, "translation"),
    Family("Wav2Vec2", "ForCTC", {**TEXT, "vocab_size": 20, "conv_dim": (8, 8, 8), "conv_stride": (5, 2, 2),
           "conv_kernel": (10, 3, 3), "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}, "wave"),
    _vision("ViT"),
    _vision("Dinov2", {**SEEN, "mlp_ratio": 2}),
    _vision("ConvNext", STAGES, hidden_sizes=[8, 12, 16, 20]),
    _vision("Swin", {**STAGES, "depths": [2, 2]}, embed_dim=8, num_heads=[2, 4], window_size=4),
)  # fmt: skip
