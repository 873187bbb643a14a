"""Decoders of Llama's shape: golden cases and an independent numpy implementation of all of them."""

import contextlib
import math

import numpy as np


def tokens(length, pad=0):
    return {"length": length, "pad": pad, "types": False}


# Longer than every window, and padded by more than one.
INPUTS = [tokens(9), tokens(8, pad=2), tokens(1)]

# Six query heads share two key/value heads; heads are not hidden / heads wide.
BASE = dict(vocab_size=19, hidden_size=12, intermediate_size=10, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, head_dim=4, max_position_embeddings=32, pad_token_id=0, bos_token_id=1,
            eos_token_id=2)
FULL, SLIDING = "full_attention", "sliding_attention"


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta, **more}


def case(cls, **config):
    config = {k: v for k, v in {**BASE, **config}.items() if v != "absent"}
    return dict(cls=cls, inputs=INPUTS, config=config)


CASES = {
    "llama-linear": case("LlamaForCausalLM", rope_parameters=rope(100.0, rope_type="linear", factor=4.0)),
    # 5.1, 1.6, 0.5 and 0.2 turns: a high, a middle and two low frequencies
    "llama-llama3": case(
        "LlamaForCausalLM", head_dim=8,
        rope_parameters=rope(100.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                             original_max_position_embeddings=32)),
    "mistral-window": case("MistralForCausalLM", sliding_window=3, rms_norm_eps=1e-3, rope_parameters=rope(100.0)),
    "mistral-tied": case("MistralForCausalLM", sliding_window=None, num_attention_heads=3, num_key_value_heads=3,
                         head_dim=None, tie_word_embeddings=True, hidden_act="gelu"),
    "mistral-base": case("MistralModel", sliding_window=2, num_key_value_heads=1),
    "qwen2-window": case("Qwen2ForCausalLM", num_hidden_layers=3, use_sliding_window=True, sliding_window=3,
                         max_window_layers=1, rms_norm_eps=1e-3),
    "qwen2-tied": case("Qwen2ForCausalLM", tie_word_embeddings=True, head_dim="absent", num_attention_heads=3,
                       num_key_value_heads=1, sliding_window=3, rope_parameters=rope(500.0)),
    "qwen2-base": case("Qwen2Model", use_sliding_window=True, sliding_window=2, layer_types=[SLIDING, FULL]),
    "qwen3-window": case("Qwen3ForCausalLM", num_hidden_layers=3, head_dim=6, attention_bias=True,
                         use_sliding_window=True, sliding_window=2, layer_types=[SLIDING, FULL, SLIDING],
                         rms_norm_eps=1e-3),
    "qwen3-tied": case("Qwen3ForCausalLM", tie_word_embeddings=True, rope_parameters=rope(50.0)),
    "qwen3-base": case("Qwen3Model", use_sliding_window=True, sliding_window=4, max_window_layers=1),
    "gemma-lm": case("GemmaForCausalLM", head_dim=6, rope_parameters=rope(100.0), rms_norm_eps=1e-3),
    "gemma-untied": case("GemmaForCausalLM", tie_word_embeddings=False, attention_bias=True, hidden_act="relu",
                         num_key_value_heads=1),
    "gemma-base": case("GemmaModel", hidden_act="gelu"),
    "gemma2-window": case("Gemma2ForCausalLM", num_hidden_layers=3, head_dim=6, attention_bias=True,
                          sliding_window=3, query_pre_attn_scalar=7, attn_logit_softcapping=2.0,
                          final_logit_softcapping=3.0, rms_norm_eps=1e-3),
    "gemma2-no-caps": case("Gemma2ForCausalLM", tie_word_embeddings=False, sliding_window=2,
                           layer_types=[FULL, SLIDING], hidden_activation="gelu", attn_logit_softcapping=None,
                           final_logit_softcapping=None, query_pre_attn_scalar=3, num_key_value_heads=1),
    "gemma2-base": case("Gemma2Model", sliding_window=4, query_pre_attn_scalar=5, rope_parameters=rope(100.0)),
    "mixtral-lm": case("MixtralForCausalLM", num_local_experts=5, num_experts_per_tok=2, rms_norm_eps=1e-3),
    "mixtral-window": case("MixtralForCausalLM", num_local_experts=3, num_experts_per_tok=1, sliding_window=3,
                           head_dim=None, tie_word_embeddings=True, num_attention_heads=3, num_key_value_heads=1,
                           rope_parameters=rope(100.0)),
    "mixtral-stacked": dict(
        case("MixtralForCausalLM", num_local_experts=4, num_experts_per_tok=3, hidden_act="gelu"),
        save=dict(save_original_format=False)),
    "mixtral-base": case("MixtralModel", num_local_experts=2, num_experts_per_tok=2),
    "phi3-window": case("Phi3ForCausalLM", sliding_window=3, rms_norm_eps=1e-3, rope_parameters=rope(100.0)),
    "phi3-partial": case("Phi3ForCausalLM", head_dim=8, tie_word_embeddings=True, num_key_value_heads=3,
                         rope_parameters=rope(100.0, partial_rotary_factor=0.75)),
    "phi3-base": case("Phi3Model", head_dim="absent", num_attention_heads=3, num_key_value_heads=1,
                      hidden_act="relu"),
    "stablelm-lm": case("StableLmForCausalLM", hidden_size=16, num_attention_heads=2, num_key_value_heads=1,
                        head_dim="absent", use_qkv_bias=True, layer_norm_eps=1e-3),
    "stablelm-parallel": case("StableLmForCausalLM", hidden_size=16, num_attention_heads=4, head_dim="absent",
                              use_parallel_residual=True, tie_word_embeddings=True, hidden_act="gelu",
                              rope_parameters=rope(100.0, partial_rotary_factor=0.5)),
    "stablelm-base": case("StableLmModel", hidden_size=16, num_attention_heads=2, num_key_value_heads=2,
                          head_dim="absent"),
    "olmo-lm": case("OlmoForCausalLM", head_dim="absent", num_attention_heads=3, num_key_value_heads=None),
    "olmo-bias": case("OlmoForCausalLM", attention_bias=True, tie_word_embeddings=True, hidden_act="relu",
                      rope_parameters=rope(100.0)),
    "olmo-base": case("OlmoModel", num_key_value_heads=1),
}
FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "mixtral", "phi3", "stablelm", "olmo"]


# ----------------------------------------------------------------------------------------------------
# float32 removed
# ----------------------------------------------------------------------------------------------------

def in_float64(model):
    """Within it, a model of these families computes in float64 throughout."""
    family = getattr(getattr(model, "config", None), "model_type", None)
    return float32_means_float64() if family in FAMILIES else contextlib.nullcontext()


@contextlib.contextmanager
def float32_means_float64():
    """Code computes in float64 where it says float32: norms, softmax, routers."""
    import torch

    kept = torch.float32, torch.float, torch.Tensor.float
    torch.float32 = torch.float = torch.float64
    torch.Tensor.float = torch.Tensor.double
    try:
        yield
    finally:
        torch.float32, torch.float, torch.Tensor.float = kept


def remove_float32():
    """What was rounded to float32 before the model runs: rotary frequencies and Gemma's factor."""
    import importlib

    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    def rotary(self, x, position_ids):
        # The frequencies are computed here, not taken from the buffer, which holds float32.
        default = self.rope_type == "default"
        frequencies = self.compute_default_rope_parameters if default else ROPE_INIT_FUNCTIONS[self.rope_type]
        with float32_means_float64():
            inv_freq, scaling = frequencies(self.config)
        angles = position_ids[..., None].to(torch.float64) * inv_freq
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos() * scaling, angles.sin() * scaling

    def scaled_embedding(self, ids):
        return torch.nn.Embedding.forward(self, ids) * self.scalar_embed_scale

    for family in FAMILIES:
        module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
        for name, cls in vars(module).items():
            if name.endswith("RotaryEmbedding"):
                cls.forward = torch.no_grad()(rotary)
            elif name.endswith("TextScaledWordEmbedding"):
                cls.forward = scaled_embedding


# ----------------------------------------------------------------------------------------------------
# Independent recomputation: numpy only, from the files only. Knows nothing of torch.
# ----------------------------------------------------------------------------------------------------

erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_tanh(x):
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1.0 + erf(x / math.sqrt(2.0))), "gelu_pytorch_tanh": gelu_tanh,
    "relu": lambda x: np.maximum(x, 0.0), "silu": lambda x: x / (1.0 + np.exp(-x)),
}


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def frequencies(rope, turned):
    f = rope["rope_theta"] ** -(np.arange(0, turned, 2) / turned)
    if rope["rope_type"] == "linear":
        return f / rope["factor"]
    if rope["rope_type"] == "llama3":
        turns = rope["original_max_position_embeddings"] * f / (2 * math.pi)
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        share = np.clip((turns - low) / (high - low), 0.0, 1.0)
        return f * (share + (1.0 - share) / rope["factor"])
    assert rope["rope_type"] == "default"
    return f


class Decoder:
    """One model with one input."""

    def __init__(self, config, weights, entry):
        self.c, self.family = config, config["model_type"]
        self.head = any(key.startswith("model.") for key in weights)
        self.w = {key.removeprefix("model."): value for key, value in weights.items()}
        self.ids = entry["input_ids"]
        self.keep = np.array(entry.get("attention_mask", [1] * len(self.ids)), dtype=bool)
        c = config
        self.heads = c["num_attention_heads"]
        self.kv_heads = c["num_key_value_heads"] or self.heads
        self.d = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps = c.get("rms_norm_eps") or c.get("layer_norm_eps") or 1e-5
        self.act = ACTIVATIONS[c["hidden_activation"] if self.family == "gemma2" else c["hidden_act"]]

    def norm(self, x, key):
        if self.family in ("stablelm", "olmo"):
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x**2).mean(-1, keepdims=True) + self.eps)
        if self.family == "olmo":
            return x
        plus = 1.0 if self.family.startswith("gemma") else 0.0
        return x * (plus + self.w[f"{key}.weight"]) + self.w.get(f"{key}.bias", 0.0)

    def linear(self, x, key):
        return x @ self.w[f"{key}.weight"].T + self.w.get(f"{key}.bias", 0.0)

    def rotate(self, x):
        """x: (n, d); pairs are (j, j + half) among the turned channels."""
        rope = self.c["rope_parameters"]
        turned = int(self.d * rope.get("partial_rotary_factor", 1.0))
        angles = np.outer(np.arange(len(x)), frequencies(rope, turned))
        cos, sin, half = np.cos(angles), np.sin(angles), turned // 2
        a, b, rest = x[:, :half], x[:, half:turned], x[:, turned:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    def window(self, layer):
        if "layer_types" in self.c and self.c["layer_types"][layer] == FULL:
            return None
        return self.c.get("sliding_window")

    def allowed(self, layer):
        n = len(self.ids)
        distance = np.arange(n)[:, None] - np.arange(n)[None, :]
        window = self.window(layer) or n
        return (distance >= 0) & (distance < window) & self.keep[None, :]

    def attention(self, x, layer):
        p = f"layers.{layer}.self_attn"
        if self.family == "phi3":
            sizes = [self.heads * self.d, (self.heads + self.kv_heads) * self.d]
            q, k, v = np.split(self.linear(x, f"{p}.qkv_proj"), sizes, axis=-1)
        else:
            q, k, v = (self.linear(x, f"{p}.{n}_proj") for n in "qkv")
        q, k, v = (y.reshape(len(x), -1, self.d) for y in (q, k, v))
        if self.family == "qwen3":
            q, k = self.norm(q, f"{p}.q_norm"), self.norm(k, f"{p}.k_norm")
        scale = (self.c["query_pre_attn_scalar"] if self.family == "gemma2" else self.d) ** -0.5
        cap = self.c.get("attn_logit_softcapping")
        allowed, out = self.allowed(layer), np.empty_like(q)
        for h in range(self.heads):
            g = h // (self.heads // self.kv_heads)
            scores = self.rotate(q[:, h]) @ self.rotate(k[:, g]).T * scale
            scores = cap * np.tanh(scores / cap) if cap else scores
            # torch adds its most negative number to what is hidden: where all is, all weigh the same.
            scores = np.where(allowed.any(-1, keepdims=True), np.where(allowed, scores, -np.inf), 0.0)
            out[:, h] = softmax(scores) @ v[:, g]
        return self.linear(out.reshape(len(x), -1), f"{p}.o_proj")

    def gated(self, x, gate, up, down):
        return (self.act(x @ gate.T) * (x @ up.T)) @ down.T

    def expert(self, layer, e):
        stacked = f"layers.{layer}.mlp.experts"
        if f"{stacked}.down_proj" in self.w:
            gate, up = np.split(self.w[f"{stacked}.gate_up_proj"][e], 2)
            return gate, up, self.w[f"{stacked}.down_proj"][e]
        p = f"layers.{layer}.block_sparse_moe.experts.{e}"
        return [self.w[f"{p}.{n}.weight"] for n in ("w1", "w3", "w2")]

    def mlp(self, x, layer):
        p = f"layers.{layer}.mlp"
        if self.family == "phi3":
            gate, up = np.split(self.w[f"{p}.gate_up_proj.weight"], 2)
            return self.gated(x, gate, up, self.w[f"{p}.down_proj.weight"])
        if self.family == "mixtral":
            stacked = f"{p}.gate.weight" in self.w
            router = softmax(self.linear(x, f"{p}.gate" if stacked else f"layers.{layer}.block_sparse_moe.gate"))
            out = np.zeros_like(x)
            for row, share in enumerate(router):
                best = np.argsort(-share)[:self.c["num_experts_per_tok"]]
                for e in best:
                    y = self.gated(x[row], *self.expert(layer, e))
                    out[row] += share[e] / share[best].sum() * y
            return out
        y = self.act(self.linear(x, f"{p}.gate_proj")) * self.linear(x, f"{p}.up_proj")
        return self.linear(y, f"{p}.down_proj")

    def layer(self, x, layer):
        p = f"layers.{layer}"
        y = self.norm(x, f"{p}.input_layernorm")
        a = self.attention(y, layer)
        if self.c.get("use_parallel_residual"):
            return x + a + self.mlp(y, layer)
        if self.family == "gemma2":
            x = x + self.norm(a, f"{p}.post_attention_layernorm")
            y = self.mlp(self.norm(x, f"{p}.pre_feedforward_layernorm"), layer)
            return x + self.norm(y, f"{p}.post_feedforward_layernorm")
        x = x + a
        return x + self.mlp(self.norm(x, f"{p}.post_attention_layernorm"), layer)

    def run(self):
        x = self.w["embed_tokens.weight"][self.ids]
        if self.family.startswith("gemma"):
            x = x * math.sqrt(self.c["hidden_size"])
        for layer in range(self.c["num_hidden_layers"]):
            x = self.layer(x, layer)
        x = self.norm(x, "norm")
        if not self.head:
            return {"last_hidden_state": x}
        x = x @ self.w["embed_tokens.weight" if self.c["tie_word_embeddings"] else "lm_head.weight"].T
        cap = self.c.get("final_logit_softcapping")
        return {"logits": cap * np.tanh(x / cap) if cap else x}


NUMPY_MODELS = {family: lambda *args: Decoder(*args).run() for family in FAMILIES}
