"""Operations of the forward pass, over a library `m` of arrays. What each reads and returns is
described in src/backend/ops."""

import math

import numpy as np


def linear(m, x):
    return {"y": affine(m, x["x"], x["weight"], x.get("bias"))}


def affine(m, x, weight, bias):
    y = x @ m.transpose(weight, (1, 0))
    return y if bias is None else y + bias


def layer_norm(m, x):
    count = x.values("x").shape[1]
    centred = x["x"] - m.sum(x["x"], 1) / count
    return {"y": normalised(m, x, centred, count)}


def rms_norm(m, x):
    return {"y": normalised(m, x, x["x"], x.values("x").shape[1])}


def normalised(m, x, centred, count):
    y = centred / m.sqrt(m.sum(centred * centred, 1) / count + x.attribute("eps"))
    if "weight" in x:
        y = y * (x["weight"] + x.attribute("offset", 0.0))
    return y + x["bias"] if "bias" in x else y


def softmax(m, x):
    visible = np.ones(x.values("x").shape, bool)
    if "mask" in x:
        visible = visible & (x.values("mask") == 1)
    return {"y": weights(m, x["x"], visible)}


def weights(m, logits, visible):
    """Softmax over the last axis, of what is visible."""
    largest = m.max(m.where(visible, logits, -3e38), -1)
    powers = m.where(visible, m.exp(logits - largest), 0.0)
    return powers / m.sum(powers, -1)


FUNCTIONS = {
    "gelu": lambda m, x: 0.5 * x * (1.0 + m.erf(x * math.sqrt(0.5))),
    "gelu_tanh": lambda m, x: 0.5
    * x
    * (1.0 + m.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))),
    "relu": lambda m, x: m.where(m.positive(x), x, 0.0),
    "silu": lambda m, x: x / (1.0 + m.exp(-x)),
    "tanh": lambda m, x: m.tanh(x),
}


def pointwise(function):
    return lambda m, x: {"y": function(m, x["x"])}


def projected(m, x, name, read):
    return affine(m, read, x[name], x.get(name + "_bias"))


def mlp(m, x):
    neurons = FUNCTIONS[x.attribute("function")](m, projected(m, x, "up", x["x"]))
    return {"y": projected(m, x, "down", neurons)}


def gated_mlp(m, x):
    gate = FUNCTIONS[x.attribute("function")](m, projected(m, x, "gate", x["x"]))
    return {"y": projected(m, x, "down", gate * projected(m, x, "up", x["x"]))}


def embedding(m, x):
    y = m.take(x["table"], x.values("ids"), 0)
    scale = x.attribute("scale")
    return {"y": y if scale is None else y * scale}


def rotary(m, x):
    tokens = x.values("x").shape[0]
    positions = x.values("positions") if "positions" in x else np.arange(tokens)
    turned = turn(m, heads(m, x, "x", -1), x, positions)
    return {"y": m.reshape(turned, x.values("x").shape)}


def heads(m, x, name, count):
    """Channels by head: [tokens, heads, head_dim]."""
    shape = x.values(name).shape
    head_dim = x.attribute("head_dim")
    return m.reshape(x[name], (shape[0], shape[1] // head_dim if count < 0 else count, head_dim))


def turn(m, x, inputs, positions):
    """Turns the pairs of each head by the angles of its position."""
    pairs, head_dim = inputs.values("frequencies").shape[0], inputs.attribute("head_dim")
    places = m.array(np.reshape(positions, (-1, 1, 1)))
    angles = places * m.reshape(inputs["frequencies"], (1, 1, pairs))
    cos, sin = m.cos(angles), m.sin(angles)
    a, b = m.take(x, np.arange(pairs), 2), m.take(x, np.arange(pairs, 2 * pairs), 2)
    parts = [a * cos - b * sin, b * cos + a * sin]
    if head_dim > 2 * pairs:
        parts.append(m.take(x, np.arange(2 * pairs, head_dim), 2))
    return m.concat(parts, 2)


def attention(m, x):
    count, kv_heads = x.attribute("heads"), x.attribute("kv_heads")
    query = heads(m, x, "query", count)
    key, value = (heads(m, x, name, kv_heads) for name in ["key", "value"])
    tokens, keys = x.values("query").shape[0], x.values("key").shape[0]
    if "frequencies" in x:
        query, key = turn(m, query, x, np.arange(tokens)), turn(m, key, x, np.arange(keys))
    read = np.arange(count) // (count // kv_heads)
    key, value = m.take(key, read, 1), m.take(value, read, 1)
    product = m.transpose(query, (1, 0, 2)) @ m.transpose(key, (1, 2, 0))
    logits = product * x.attribute("scale")
    cap = x.attribute("softcap")
    if cap is not None:
        logits = cap * m.tanh(logits / cap)
    seen = np.broadcast_to(visible(x, tokens, keys), (count, tokens, keys))
    y = weights(m, logits, seen) @ m.transpose(value, (1, 0, 2))
    return {"y": m.reshape(m.transpose(y, (1, 0, 2)), x.values("query").shape)}


def visible(x, tokens, keys):
    """Which keys each query sees; one that sees none may get any answer."""
    i, j = np.arange(tokens)[:, None], np.arange(keys)[None, :]
    seen = np.ones((tokens, keys), bool)
    if "mask" in x:
        seen = seen & (x.values("mask") == 1)
    if x.attribute("causal"):
        seen = seen & (j <= i)
    if x.attribute("window") is not None:
        seen = seen & (j > i - x.attribute("window"))
    return seen


OPERATIONS = {
    "linear": linear, "layer_norm": layer_norm, "rms_norm": rms_norm, "softmax": softmax,
    "mlp": mlp, "gated_mlp": gated_mlp, "embedding": embedding, "rotary": rotary,
    "attention": attention, **{name: pointwise(f) for name, f in FUNCTIONS.items()},
}
