"""Cases of GPT-NeoX, OPT, Phi, RoBERTa, DistilBERT and the Pre-LN BERT of LEMON's own code.

`make_goldens.py` writes and checks them; see its first lines.
"""

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from numpy_parts import ACTIVATIONS, attention, gelu_erf, layer_norm, linear, masks, strip


def tokens(length, **special):
    return {"length": length, "pad": 0, "types": False, **special}


LM_INPUTS = [tokens(7), tokens(8, pad=3), tokens(9, left=2), tokens(1)]
NEOX = dict(vocab_size=27, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=3,
            max_position_embeddings=32, bos_token_id=1, eos_token_id=2)
CASES = {
    # GPT-NeoX
    "gpt-neox-parallel": dict(
        cls="GPTNeoXForCausalLM", inputs=LM_INPUTS,
        config=dict(NEOX, rotary_pct=0.5)),
    "gpt-neox-sequential": dict(
        cls="GPTNeoXForCausalLM", inputs=LM_INPUTS,
        config=dict(NEOX, hidden_size=20, num_attention_heads=2, num_hidden_layers=3, rotary_pct=0.25,
                    rotary_emb_base=50, use_parallel_residual=False, attention_bias=False, hidden_act="relu",
                    layer_norm_eps=1e-3, tie_word_embeddings=True)),
    "gpt-neox-base": dict(
        cls="GPTNeoXModel", inputs=LM_INPUTS,
        config=dict(NEOX, hidden_size=12, num_attention_heads=2, rotary_pct=1.0, hidden_act="gelu_fast")),
}


def remove_float32():
    """Rotary embeddings: inv_freq, the angles, cos and sin are float32 (eager softmax is replaced elsewhere)."""
    import torch
    from transformers.models.gpt_neox import modeling_gpt_neox

    def inverse_frequencies(config, **_):
        parameters = config.rope_parameters
        assert parameters["rope_type"] == "default"
        size = int(config.hidden_size // config.num_attention_heads * parameters["partial_rotary_factor"])
        exponent = torch.arange(0, size, 2, dtype=torch.float64) / size
        return 1.0 / (parameters["rope_theta"] ** exponent), 1.0

    def rotary(self, x, position_ids):
        inv_freq, scaling = inverse_frequencies(self.config)
        angles = position_ids[..., None].to(torch.float64) * inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * scaling, angles.sin() * scaling

    for cls in (modeling_gpt_neox.GPTNeoXRotaryEmbedding,):
        cls.compute_default_rope_parameters = staticmethod(inverse_frequencies)
        cls.forward = torch.no_grad()(rotary)


# ----------------------------------------------------------------------------------------------------
# Independent recomputation, as at the end of make_goldens.py.
# ----------------------------------------------------------------------------------------------------

def partly_rotated(c, count):
    """The function that turns the first channels of a head, at positions 0, 1, 2, ..."""
    parameters = c["rope_parameters"]
    assert parameters["rope_type"] == "default"
    size = int(c["hidden_size"] // c["num_attention_heads"] * parameters["partial_rotary_factor"])
    angles = np.outer(np.arange(count), parameters["rope_theta"] ** -(np.arange(0, size, 2) / size))
    cos, sin = np.cos(angles), np.sin(angles)

    def rotate(x):
        a, b = x[:, :size // 2], x[:, size // 2:size]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[:, size:]], axis=-1)

    return rotate


def numpy_gpt_neox(c, w, entry):
    head = next((k for k in ("embed_out.weight", "lm_head.weight") if k in w), None)
    with_head = any(k.startswith("gpt_neox.") for k in w)
    w = strip(w, "gpt_neox.")
    ids, allowed = entry["input_ids"], masks(entry, causal=True)
    act, eps, heads = ACTIVATIONS[c["hidden_act"]], c["layer_norm_eps"], c["num_attention_heads"]
    size = c["hidden_size"] // heads
    rotate = partly_rotated(c, len(ids))
    x = w["embed_in.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        p = f"layers.{i}"
        y = linear(layer_norm(x, w, f"{p}.input_layernorm", eps), w, f"{p}.attention.query_key_value")
        y = y.reshape(len(ids), heads, 3, size)
        q, k, v = (y[:, :, which].reshape(len(ids), heads * size) for which in range(3))
        a = attention(q, k, v, heads, heads, size**-0.5, allowed, rotate)
        a = linear(a, w, f"{p}.attention.dense")
        read = x if c["use_parallel_residual"] else x + a
        y = act(linear(layer_norm(read, w, f"{p}.post_attention_layernorm", eps), w, f"{p}.mlp.dense_h_to_4h"))
        x = x + a + linear(y, w, f"{p}.mlp.dense_4h_to_h")
    x = layer_norm(x, w, "final_layer_norm", eps)
    if not with_head:
        return {"last_hidden_state": x}
    return {"logits": x @ w["embed_in.weight" if c["tie_word_embeddings"] else head].T}


NUMPY_MODELS = {"gpt_neox": numpy_gpt_neox}
