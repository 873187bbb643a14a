"""Whole models, over a library `m` of arrays, written from their published definitions. What they
read and return is described in src/backend/forward."""

import json
import math
import os

import numpy as np

import ops
import tensors

FUNCTIONS = {
    **ops.FUNCTIONS, "gelu_new": ops.FUNCTIONS["gelu_tanh"],
    "gelu_pytorch_tanh": ops.FUNCTIONS["gelu_tanh"], "swish": ops.FUNCTIONS["silu"],
}


class Parts:
    """What families have in common, in pieces that a mistake can replace."""

    def deviation(self, m, square, eps):
        return m.sqrt(square + eps)

    def function(self, name):
        return FUNCTIONS[name]

    def sees(self, i, j):
        """Whether position i sees position j, where no position sees those behind it."""
        return j <= i

    def near(self, i, j, window):
        return j > i - window

    def key_value_heads(self, heads, kv_heads):
        """Which key/value head each query head reads."""
        return np.arange(heads) // (heads // kv_heads)

    def pairs(self, half):
        """The first and the second channels of the pairs that rotary positions turn."""
        return np.arange(half), np.arange(half, 2 * half)

    def norm_offset(self, offset):
        return offset

    def embedding_scale(self, scale):
        return scale

    def types(self, ids, tokens):
        return np.zeros(tokens, int) if ids is None else ids

    def mask(self, mask):
        return mask


class Net:
    """A model and what it reads."""

    def __init__(self, m, parts, config, weights, inputs, request):
        self.m, self.parts, self.config, self.weights = m, parts, config, weights
        self.ids, self.inputs = inputs["input_ids"], inputs
        self.returns, self.dtype = request["returns"], request["dtype"]
        self.tokens, self.outputs, self.layers = len(self.ids), {}, 0
        # What is added to the weights of RMSNorms.
        self.offset = 0.0

    def get(self, field, default=None):
        value = self.config.get(field)
        return default if value is None else value

    def prefix(self, prefix, name):
        return prefix if prefix + name in self.weights else ""

    def rows(self, table, ids):
        return self.m.take(self.weights[table], ids, 0)

    def linear(self, x, name):
        return ops.affine(
            self.m, x, self.weights[name + ".weight"], self.weights.get(name + ".bias")
        )

    def keep(self, stream):
        """Returns the stream behind the embedding or the next layer too."""
        self.outputs[f"hidden.{self.layers}"] = stream
        self.layers += 1
        return stream

    def layer_norm(self, x, name, eps, channels):
        old = name + ".gamma" in self.weights
        weight, bias = ("gamma", "beta") if old else ("weight", "bias")
        centred = x - self.m.sum(x, -1) / channels
        y = self.standardised(centred, eps, channels) * self.weights[f"{name}.{weight}"]
        return y + self.weights[f"{name}.{bias}"]

    def rms_norm(self, x, name, eps, channels):
        offset = self.parts.norm_offset(self.offset)
        return self.standardised(x, eps, channels) * (self.weights[name + ".weight"] + offset)

    def standardised(self, x, eps, channels):
        return x / self.parts.deviation(self.m, self.m.sum(x * x, -1) / channels, eps)

    def heads(self, x, count):
        """Channels by head: [tokens, heads, channels]."""
        return self.m.reshape(x, (self.tokens, count, -1))

    def visible(self, causal, window):
        i, j = np.arange(self.tokens)[:, None], np.arange(self.tokens)[None, :]
        seen = np.ones((self.tokens, self.tokens), bool)
        mask = self.parts.mask(self.inputs.get("attention_mask"))
        if mask is not None:
            seen = seen & (mask[None, :] == 1)
        if causal:
            seen = seen & self.parts.sees(i, j)
        if window is not None:
            seen = seen & self.parts.near(i, j, window)
        # A row of padding that sees nothing may return anything but what is no number, which
        # would spread from there.
        return seen | ~seen.any(1, keepdims=True)

    def attention(self, query, key, value, counts, scale, causal, window=None):
        """Query, key and value by head, and how many heads they have; returns [tokens, channels]."""
        m, (heads, kv_heads) = self.m, counts
        read = self.parts.key_value_heads(heads, kv_heads)
        key, value = m.take(key, read, 1), m.take(value, read, 1)
        logits = m.transpose(query, (1, 0, 2)) @ m.transpose(key, (1, 2, 0)) * scale
        seen = np.broadcast_to(self.visible(causal, window), (heads, self.tokens, self.tokens))
        y = ops.weights(m, logits, seen) @ m.transpose(value, (1, 0, 2))
        return m.reshape(m.transpose(y, (1, 0, 2)), (self.tokens, -1))


def gpt2(net):
    m, prefix = net.m, net.prefix("transformer.", "wte.weight")
    hidden, heads, eps = net.get("n_embd"), net.get("n_head"), net.get("layer_norm_epsilon", 1e-5)
    function = net.parts.function(net.get("activation_function", "gelu_new"))

    def conv1d(x, name):
        return x @ net.weights[name + ".weight"] + net.weights[name + ".bias"]

    x = net.rows(prefix + "wte.weight", net.ids)
    x = net.keep(x + net.rows(prefix + "wpe.weight", np.arange(net.tokens)))
    for layer in range(net.get("n_layer")):
        name = f"{prefix}h.{layer}."
        fused = conv1d(net.layer_norm(x, name + "ln_1", eps, hidden), name + "attn.c_attn")
        query, key, value = (
            net.heads(m.take(fused, np.arange(part * hidden, (part + 1) * hidden), 1), heads)
            for part in range(3)
        )
        scale = (heads / hidden) ** 0.5 if net.get("scale_attn_weights", True) else 1.0
        if net.get("scale_attn_by_inverse_layer_idx", False):
            scale /= layer + 1
        x = x + conv1d(net.attention(query, key, value, (heads, heads), scale, True), name + "attn.c_proj")
        read = net.layer_norm(x, name + "ln_2", eps, hidden)
        x = x + conv1d(function(m, conv1d(read, name + "mlp.c_fc")), name + "mlp.c_proj")
        net.keep(x)
    x = net.layer_norm(x, prefix + "ln_f", eps, hidden)
    words_or_hidden(net, x, prefix + "wte.weight", True)


def words_or_hidden(net, x, table, tied):
    """The outputs of a decoder."""
    net.outputs["last_hidden_state"] = x
    if "logits" in net.returns:
        tied = net.get("tie_word_embeddings", tied)
        head = net.weights[table if tied else "lm_head.weight"]
        net.outputs["logits"] = ops.affine(net.m, x, head, None)


def frequencies(net, head_dim):
    """Radians by which each pair is turned from one position to the next."""
    settings = net.get("rope_parameters") or net.get("rope_scaling") or {}
    theta = settings.get("rope_theta", net.get("rope_theta", 10000.0))
    turns = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind == "linear":
        return turns / settings["factor"]
    if kind == "llama3":
        low, high = settings["low_freq_factor"], settings["high_freq_factor"]
        around = settings["original_max_position_embeddings"] * turns / (2 * math.pi)
        kept = np.clip((around - low) / (high - low), 0, 1)
        return turns * (kept + (1 - kept) / settings["factor"])
    return turns


def turned(net, x, turns):
    """Rotary positions of [tokens, heads, channels]."""
    m, half = net.m, len(turns)
    places = m.array(np.arange(net.tokens).reshape(-1, 1, 1))
    angles = places * m.array(turns.reshape(1, 1, -1))
    cos, sin = m.cos(angles), m.sin(angles)
    first, second = net.parts.pairs(half)
    a, b = m.take(x, first, 2), m.take(x, second, 2)
    order = np.argsort(np.concatenate([first, second]))
    return m.take(m.concat([a * cos - b * sin, b * cos + a * sin], 2), order, 2)


def window_of(net, layer):
    """How many positions a layer sees, itself included; all of them where it is None."""
    size = net.get("sliding_window")
    kinds = net.get("layer_types")
    if not net.get("use_sliding_window", net.get("model_type") == "mistral"):
        return None
    if kinds is not None:
        return size if kinds[layer] == "sliding_attention" else None
    return size if layer >= net.get("max_window_layers", 0) else None


def llama(net, scale=1.0, tied=False, function=None):
    """Llama, Mistral and Qwen: which biases and norms of heads there are, the weights tell."""
    prefix = net.prefix("model.", "embed_tokens.weight")
    hidden, heads = net.get("hidden_size"), net.get("num_attention_heads")
    kv_heads, eps = net.get("num_key_value_heads", heads), net.get("rms_norm_eps", 1e-6)
    head_dim = net.get("head_dim", hidden // heads)
    function = net.parts.function(function or net.get("hidden_act", "silu"))
    turns = frequencies(net, head_dim)

    def by_head(read, name, part, count):
        x = net.heads(net.linear(read, f"{name}self_attn.{part}_proj"), count)
        norm = f"{name}self_attn.{part}_norm"
        return net.rms_norm(x, norm, eps, head_dim) if norm + ".weight" in net.weights else x

    x = net.keep(net.rows(prefix + "embed_tokens.weight", net.ids) * scale)
    for layer in range(net.get("num_hidden_layers")):
        name = f"{prefix}layers.{layer}."
        read = net.rms_norm(x, name + "input_layernorm", eps, hidden)
        query = turned(net, by_head(read, name, "q", heads), turns)
        key = turned(net, by_head(read, name, "k", kv_heads), turns)
        value = by_head(read, name, "v", kv_heads)
        window = window_of(net, layer)
        counts = heads, kv_heads
        mixed = net.attention(query, key, value, counts, head_dim**-0.5, True, window)
        x = x + net.linear(mixed, name + "self_attn.o_proj")
        read = net.rms_norm(x, name + "post_attention_layernorm", eps, hidden)
        gate = function(net.m, net.linear(read, name + "mlp.gate_proj"))
        x = x + net.linear(gate * net.linear(read, name + "mlp.up_proj"), name + "mlp.down_proj")
        net.keep(x)
    x = net.rms_norm(x, prefix + "norm", eps, hidden)
    words_or_hidden(net, x, prefix + "embed_tokens.weight", tied)


def gemma(net):
    """Llama with norms of 1 + weight and a table that is scaled, by what its format holds."""
    net.offset = 1.0
    scale = net.parts.embedding_scale(tensors.rounded(net.get("hidden_size") ** 0.5, net.dtype))
    function = net.get("hidden_act", "gelu_new")
    llama(net, scale, True, "gelu_new" if function == "gelu" else function)


def bert(net):
    prefix = net.prefix("bert.", "embeddings.word_embeddings.weight")
    hidden, heads = net.get("hidden_size"), net.get("num_attention_heads")
    eps, function = net.get("layer_norm_eps", 1e-12), net.parts.function(net.get("hidden_act"))
    types = net.parts.types(net.inputs.get("token_type_ids"), net.tokens)
    tables = [("word", net.ids), ("position", np.arange(net.tokens)), ("token_type", types)]
    word, place, kind = (
        net.rows(f"{prefix}embeddings.{table}_embeddings.weight", ids) for table, ids in tables
    )
    x = net.layer_norm(word + place + kind, prefix + "embeddings.LayerNorm", eps, hidden)
    net.keep(x)
    for layer in range(net.get("num_hidden_layers")):
        name = f"{prefix}encoder.layer.{layer}."
        query, key, value = (
            net.heads(net.linear(x, f"{name}attention.self.{part}"), heads)
            for part in ["query", "key", "value"]
        )
        scale = (heads / hidden) ** 0.5
        mixed = net.attention(query, key, value, (heads, heads), scale, False)
        x = x + net.linear(mixed, name + "attention.output.dense")
        x = net.layer_norm(x, name + "attention.output.LayerNorm", eps, hidden)
        neurons = function(net.m, net.linear(x, name + "intermediate.dense"))
        x = x + net.linear(neurons, name + "output.dense")
        x = net.keep(net.layer_norm(x, name + "output.LayerNorm", eps, hidden))
    net.outputs["last_hidden_state"] = x
    if {"pooler_output", "seq_relationship_logits"} & set(net.returns):
        first = net.m.take(x, np.arange(1), 0)
        pooled = net.m.tanh(net.linear(first, prefix + "pooler.dense"))
        net.outputs["pooler_output"] = pooled
    if "seq_relationship_logits" in net.returns:
        net.outputs["seq_relationship_logits"] = net.linear(pooled, "cls.seq_relationship")
    if "logits" in net.returns:
        net.outputs["logits"] = bert_words(net, x, prefix, function, eps, hidden)


def bert_words(net, x, prefix, function, eps, hidden):
    head = "cls.predictions"
    x = function(net.m, net.linear(x, head + ".transform.dense"))
    x = net.layer_norm(x, head + ".transform.LayerNorm", eps, hidden)
    if net.get("tie_word_embeddings", True):
        table = net.weights[prefix + "embeddings.word_embeddings.weight"]
        return ops.affine(net.m, x, table, net.weights[head + ".bias"])
    own = head + ".decoder.bias"
    bias = net.weights[own if own in net.weights else head + ".bias"]
    return ops.affine(net.m, x, net.weights[head + ".decoder.weight"], bias)


FAMILIES = {
    "gpt2": gpt2, "llama": llama, "mistral": llama, "qwen2": llama, "qwen3": llama,
    "gemma": gemma, "bert": bert,
}


class Models:
    """Families by name, with the parts that they are made of."""

    # What runs them beside the library of arrays.
    libraries = []

    def __init__(self, families=FAMILIES, parts=Parts()):
        self.families, self.parts = {name: FAMILIES[name] for name in families}, parts

    def answer(self, library, request):
        """Runs the model that a request names, and writes what it returns."""
        family = self.families.get(request["family"])
        if family is None:
            return {"unsupported": f"no family {request['family']}"}
        with open(os.path.join(request["model"], "config.json")) as file:
            config = json.load(file)
        weights = tensors.read(os.path.join(request["model"], "model.safetensors"))
        inputs = tensors.read(request["inputs"])

        def run(arrays):
            net = Net(library, self.parts, config, arrays, inputs, request)
            family(net)
            asked = [n for n in net.outputs if n in net.returns or n.startswith("hidden.")]
            return {name: net.outputs[name] for name in asked}

        library.dtype = np.dtype(np.float64 if request["dtype"] == "f64" else np.float32)
        tensors.write(request["outputs"], library.run(run, weights), request["dtype"])
        return {"ok": True}
