"""The parts that the independent numpy implementations are put together from. Nothing here knows of torch."""

import math

import numpy as np

erf = np.vectorize(math.erf, otypes=[np.float64])


def gelu_erf(x):
    return 0.5 * x * (1.0 + erf(x / math.sqrt(2.0)))


def gelu_tanh(x):
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def gelu_fast(x):
    return 0.5 * x * (1.0 + np.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x)))


ACTIVATIONS = {
    "gelu": gelu_erf, "gelu_new": gelu_tanh, "gelu_pytorch_tanh": gelu_tanh, "gelu_fast": gelu_fast,
    "relu": lambda x: np.maximum(x, 0.0), "silu": lambda x: x / (1.0 + np.exp(-x)),
}


def layer_norm(x, w, key, eps):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * w[f"{key}.weight"] + w[f"{key}.bias"]


def rms_norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def linear(x, w, key):
    """torch.nn.Linear: weight is (out, in); the bias is optional."""
    y = x @ w[f"{key}.weight"].T
    return y + w[f"{key}.bias"] if f"{key}.bias" in w else y


def conv1d(x, w, key):
    """GPT-2's Conv1D: weight is (in, out)."""
    return x @ w[f"{key}.weight"] + w[f"{key}.bias"]


def attention(q, k, v, heads, kv_heads, scale, allowed, rotate=lambda x: x):
    """q: (n, heads*d), k and v: (n, kv_heads*d); allowed[i, j]: position i may look at j."""
    n, d = q.shape[0], q.shape[1] // heads
    out = np.empty((n, heads, d))
    for h in range(heads):
        g = h // (heads // kv_heads)
        qh = rotate(q[:, h * d:(h + 1) * d])
        kh = rotate(k[:, g * d:(g + 1) * d])
        scores = np.where(allowed, qh @ kh.T * scale, -np.inf)
        # torch adds its most negative number to what is hidden: where all is, all weigh the same.
        scores = np.where(allowed.any(-1, keepdims=True), scores, 0.0)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out[:, h] = weights @ v[:, g * d:(g + 1) * d]
    return out.reshape(n, heads * d)


def strip(w, prefix):
    """The weights with `prefix` removed from the names that carry it."""
    return {k.removeprefix(prefix): v for k, v in w.items()}


def masks(entry, causal):
    n = len(entry["input_ids"])
    keep = np.array(entry.get("attention_mask", [1] * n), dtype=bool)
    allowed = np.broadcast_to(keep, (n, n))
    return allowed & np.tril(np.ones((n, n), dtype=bool)) if causal else allowed
