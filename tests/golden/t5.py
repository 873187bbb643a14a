"""T5: cases, what to replace so that no float32 is left, and the numpy implementation."""

import math

import numpy as np

from make_goldens import ACTIVATIONS, tokens

T5 = dict(vocab_size=29, d_model=12, d_kv=4, d_ff=20, num_layers=2, num_heads=3,
          relative_attention_num_buckets=8, relative_attention_max_distance=12)


def pair(length, decoder, pad=0, decoder_pad=0):
    """`length` token ids for the encoder and `decoder` for the decoder, the last ones masked out."""
    return {"length": length, "decoder": decoder, "pad": pad, "decoder_pad": decoder_pad}


# The third has distances beyond `relative_attention_max_distance`.
PAIRS = [pair(7, 5), pair(8, 6, pad=3, decoder_pad=2), pair(23, 19), pair(1, 1)]

CASES = {
    "t5-plain": dict(
        cls="T5ForConditionalGeneration", inputs=PAIRS,
        config=dict(T5, feed_forward_proj="relu")),
    "t5-gated": dict(  # the head is untied by `untie`, as that of T5 1.1 is
        cls="T5ForConditionalGeneration", inputs=PAIRS, untie="lm_head",
        config=dict(T5, feed_forward_proj="gated-gelu", d_kv=5, num_decoder_layers=3,
                    relative_attention_num_buckets=9, layer_norm_epsilon=1e-3, tie_word_embeddings=False)),
    "t5-gated-tied": dict(
        cls="T5ForConditionalGeneration", inputs=PAIRS,
        config=dict(T5, feed_forward_proj="gated-silu", num_layers=3, num_decoder_layers=1,
                    relative_attention_num_buckets=32, relative_attention_max_distance=20)),
    "t5-model": dict(
        cls="T5Model", inputs=PAIRS,
        config=dict(T5, feed_forward_proj="gelu", num_heads=2)),
    "t5-encoder": dict(
        cls="T5EncoderModel", inputs=[tokens(7), tokens(8, pad=3), tokens(23), tokens(1)],
        config=dict(T5, feed_forward_proj="relu", num_layers=3)),
}


def remove_float32():
    """T5LayerNorm computes the mean square in float32. (Buckets of distances stay as they are: the
    float32 logarithm there decides which integer it is, in every number format.)"""
    import torch
    from transformers.models.t5 import modeling_t5

    def norm(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon))

    modeling_t5.T5LayerNorm.forward = norm
    with_float32 = modeling_t5.T5Attention._relative_position_bucket

    def bucket(*args, **kwargs):
        from torch.utils._python_dispatch import _disable_current_modes
        with _disable_current_modes():
            return with_float32(*args, **kwargs)

    modeling_t5.T5Attention._relative_position_bucket = staticmethod(bucket)


# ----------------------------------------------------------------------------------------------------
# numpy, from the files only
# ----------------------------------------------------------------------------------------------------

def bucket(distance, both, count, furthest):
    """The bucket of a key that is `distance` after the query, from the definition in real numbers."""
    first = 0
    if both:
        count //= 2
        first = count if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    near = count // 2
    if distance < near:
        return first + distance
    share = math.log(distance / near) / math.log(furthest / near)
    return first + min(near + math.floor(share * (count - near) + 1e-9), count - 1)


def numpy_t5(c, w, entry):
    heads, size, eps = c["num_heads"], c["d_kv"], c["layer_norm_epsilon"]
    act = ACTIVATIONS[c["dense_act_fn"]]
    shared = w["shared.weight"]

    def norm(x, key):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * w[f"{key}.weight"]

    def attend(x, memory, key, allowed, bias):
        q, k, v = (y @ w[f"{key}.{n}.weight"].T for y, n in ((x, "q"), (memory, "k"), (memory, "v")))
        out = np.empty((len(x), heads, size))
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            scores = np.where(allowed, q[:, part] @ k[:, part].T + bias[h], -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[:, h] = weights / weights.sum(-1, keepdims=True) @ v[:, part]
        return out.reshape(len(x), -1) @ w[f"{key}.o.weight"].T

    def stack(name, count, ids, allowed, memory=None, seen=None):
        x, n, decodes = shared[ids], len(ids), name == "decoder"
        table = w[f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        places = [[bucket(j - i, not decodes, c["relative_attention_num_buckets"],
                          c["relative_attention_max_distance"]) for j in range(n)] for i in range(n)]
        bias = table[np.array(places)].transpose(2, 0, 1)
        for i in range(count):
            p = f"{name}.block.{i}.layer"
            y = norm(x, f"{p}.0.layer_norm")
            x = x + attend(y, y, f"{p}.0.SelfAttention", allowed, bias)
            if decodes:
                y = norm(x, f"{p}.1.layer_norm")
                x = x + attend(y, memory, f"{p}.1.EncDecAttention", seen, np.zeros(heads))
            p = f"{p}.{2 if decodes else 1}"
            y, d = norm(x, f"{p}.layer_norm"), f"{p}.DenseReluDense"
            if c["is_gated_act"]:
                y = act(y @ w[f"{d}.wi_0.weight"].T) * (y @ w[f"{d}.wi_1.weight"].T)
            else:
                y = act(y @ w[f"{d}.wi.weight"].T)
            x = x + y @ w[f"{d}.wo.weight"].T
        return norm(x, f"{name}.final_layer_norm")

    def keep(name, ids):
        return np.array(entry.get(name, [1] * len(ids)), dtype=bool)

    ids = entry["input_ids"]
    visible = keep("attention_mask", ids)
    memory = stack("encoder", c["num_layers"], ids, np.broadcast_to(visible, (len(ids), len(ids))))
    if "decoder_input_ids" not in entry:
        return {"last_hidden_state": memory}
    decoder = entry["decoder_input_ids"]
    n = len(decoder)
    allowed = keep("decoder_attention_mask", decoder) & np.tril(np.ones((n, n), dtype=bool))
    seen = np.broadcast_to(visible, (n, len(ids)))
    x = stack("decoder", c["num_decoder_layers"], decoder, allowed, memory, seen)
    if c["architectures"] == ["T5Model"]:
        return {"last_hidden_state": x}
    x = x * len(shared[0]) ** -0.5 if c["scale_decoder_outputs"] else x
    return {"logits": x @ w.get("lm_head.weight", shared).T}


NUMPY_MODELS = {"t5": numpy_t5}
