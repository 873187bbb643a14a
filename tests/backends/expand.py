"""Lossless expansion of whole models in numpy: GPT-2, Llama, Mistral and Qwen2, by LEMON's rules
(arXiv 2310.07999). What is read and returned is described in src/backend/expand.rs."""

import json
import os

import numpy as np

import tensors


class Unsupported(Exception):
    """This expansion does not do that."""


class Map:
    """From the source's channels to the larger model's: which one each copies, −1 for none."""

    def __init__(self, of, count):
        self.of, self.count = np.asarray(of), count
        copies = np.bincount(self.of[self.of >= 0], minlength=count)
        self.share = np.where(self.of >= 0, 1.0 / np.maximum(copies[self.of], 1), 0.0)

    @classmethod
    def circular(cls, small, large):
        return cls(np.arange(large) % small, small)

    def spread(self, matrix, residue=0.0):
        """Rows that write the larger space; `residue` is what other channels hold."""
        matrix = np.asarray(matrix)
        kept = (self.of >= 0).reshape((-1,) + (1,) * (matrix.ndim - 1))
        return np.where(kept, matrix[self.of], residue)

    def split(self, matrix, random):
        """Columns that read the larger space: those of copies sum to the source's, in unequal
        parts, which tells copies apart in training."""
        matrix = np.asarray(matrix)
        free = random.standard_normal((matrix.shape[0], len(self.of))) * np.abs(matrix).mean()
        of_copies = np.stack([free[:, self.of == j].mean(1) for j in range(self.count)], 1)
        free = free - of_copies[:, self.of]
        return np.where(self.of >= 0, matrix[:, self.of] * self.share + free, free)


class Rules:
    """What is easily done wrong, in pieces that a mistake can replace."""

    def eta(self, copies, small, large):
        """By how much the norm of the larger stream is smaller: sqrt(k D_S / D_T)."""
        return (copies * small / large) ** 0.5

    def residue(self, table):
        """What channels that copy nothing hold in front of a LayerNorm: the mean."""
        return table.mean(0, keepdims=True)

    def tied(self, copies):
        """A table that is read too counts every copy: the last norm makes up for it."""
        return 1 / copies

    def query_scale(self, small, large):
        """Logits are divided by the root of the channels of a head."""
        return (large / small) ** 0.5

    def heads(self, source, kv_source, target, kv_target):
        """Which head each query head copies: one of the key/value head that its own copies."""
        each, wanted = source // kv_source, target // kv_target
        if wanted < each:
            raise Unsupported("fewer query heads for each key/value head")
        head = np.arange(target)
        return head // wanted % kv_source * each + head % wanted % each

    def new_bias(self, bias):
        """The bias of an output of a new layer."""
        return np.zeros_like(bias)


class Expansion:
    """One model that becomes a larger one."""

    def __init__(self, rules, weights, configs, sizes):
        self.rules, self.weights, self.out = rules, weights, {}
        (self.source, self.target), (self.small, self.large) = configs, sizes
        self.random = np.random.default_rng(0)
        small, large = self.small["hidden"], self.large["hidden"]
        self.copies = large // small
        channels = np.arange(large)
        self.stream = Map(np.where(channels < self.copies * small, channels % small, -1), small)
        self.eta = rules.eta(self.copies, small, large)
        self.neurons = Map.circular(self.small["intermediate"], self.large["intermediate"])

    def read(self, name, matrix=None):
        """A matrix that reads the stream."""
        return self.stream.split(self.weights[name] if matrix is None else matrix, self.random)

    def write(self, matrix, columns, layer_norm):
        """A matrix that writes the stream, from what `columns` maps."""
        matrix = columns.split(matrix, self.random)
        return self.stream.spread(matrix, self.rules.residue(matrix) if layer_norm else 0.0)

    def bias(self, vector, layer_norm):
        return self.stream.spread(vector, self.rules.residue(vector) if layer_norm else 0.0)

    def norm(self, name, factor=1.0):
        """The weight and the bias of a norm of the stream; η makes up for its smaller size."""
        out = {name + ".weight": self.stream.spread(self.weights[name + ".weight"], 1.0)}
        out[name + ".weight"] *= self.eta * factor
        if name + ".bias" in self.weights:
            out[name + ".bias"] = self.stream.spread(self.weights[name + ".bias"]) * factor
        return out

    def layers(self):
        """Which layer of the source each layer is, or copies where it is new."""
        count, after = self.small["layers"], list(self.large["insert_after"])
        found = []
        for place in range(count + 1):
            found += [(max(place - 1, 0), True)] * after.count(place)
            found += [(place, False)] * (place < count)
        return found

    def heads(self):
        """Maps of the rows of query heads and of key/value heads, and the head dimensions."""
        small, large = self.small, self.large
        counts = [sizes[name] for sizes in (small, large) for name in ("heads", "kv_heads")]
        of = self.rules.heads(*counts)
        kv_of = np.arange(large["kv_heads"]) % small["kv_heads"]
        sizes = small["head_dim"], large["head_dim"]
        return rows_of(of, small["heads"], *sizes), rows_of(kv_of, small["kv_heads"], *sizes)

    def table(self, name, layer_norm):
        """A table of rows of the stream."""
        rows = self.weights[name].T
        return self.stream.spread(rows, self.rules.residue(rows) if layer_norm else 0.0).T

    def finish(self, norm, table, tied):
        """The last norm and, where there is one, the head that reads it."""
        is_tied = self.target.get("tie_word_embeddings", tied)
        has_logits = any("LM" in name for name in self.target.get("architectures") or [])
        factor = self.rules.tied(self.copies) if is_tied and has_logits else 1.0
        self.out |= self.norm(norm, factor)
        if "lm_head.weight" in self.weights:
            head = self.out[table] if is_tied else self.read("lm_head.weight")
            self.out["lm_head.weight"] = head


def rows_of(heads, count, small, large):
    """The map of rows, head by head: channels that a head has not, copy none."""
    channel = np.arange(large)
    own = np.where(channel < small, channel, -1)
    return Map(np.where(own >= 0, heads[:, None] * small + own, -1).ravel(), count * small)


def gpt2(e):
    prefix = "transformer." if "transformer.wte.weight" in e.weights else ""
    e.out |= {name: e.table(name, True) for name in (prefix + "wte.weight", prefix + "wpe.weight")}
    queries, _ = e.heads()
    by_layer = e.source.get("scale_attn_by_inverse_layer_idx", False)
    for layer, (of, new) in enumerate(e.layers()):
        old, name = f"{prefix}h.{of}.", f"{prefix}h.{layer}."
        w = lambda part: e.weights[old + part]
        out = e.norm(old + "ln_1") | e.norm(old + "ln_2")
        scale = e.rules.query_scale(e.small["head_dim"], e.large["head_dim"])
        scale = scale if e.source.get("scale_attn_weights", True) else 1.0
        scale *= (layer + 1) / (of + 1) if by_layer else 1.0
        thirds = zip(np.split(w("attn.c_attn.weight").T, 3), np.split(w("attn.c_attn.bias"), 3))
        parts = [
            (e.read(None, queries.spread(m)) * s, queries.spread(b) * s)
            for (m, b), s in zip(thirds, (scale, 1.0, 1.0))
        ]
        out[old + "attn.c_attn.weight"] = np.concatenate([m for m, _ in parts]).T
        out[old + "attn.c_attn.bias"] = np.concatenate([b for _, b in parts])
        out[old + "mlp.c_fc.weight"] = e.read(None, e.neurons.spread(w("mlp.c_fc.weight").T)).T
        out[old + "mlp.c_fc.bias"] = e.neurons.spread(w("mlp.c_fc.bias"))
        for part, columns in ("attn.c_proj", queries), ("mlp.c_proj", e.neurons):
            matrix = e.write(w(part + ".weight").T, columns, True).T
            bias = e.bias(w(part + ".bias"), True)
            out[f"{old}{part}.weight"] = np.zeros_like(matrix) if new else matrix
            out[f"{old}{part}.bias"] = e.rules.new_bias(bias) if new else bias
        e.out |= {name + part.removeprefix(old): array for part, array in out.items()}
    e.finish(prefix + "ln_f", prefix + "wte.weight", True)


def llama(e):
    prefix = "model." if "model.embed_tokens.weight" in e.weights else ""
    if e.small["head_dim"] != e.large["head_dim"]:
        raise Unsupported("other channels of rotary heads")
    e.out[prefix + "embed_tokens.weight"] = e.table(prefix + "embed_tokens.weight", False)
    queries, keys = e.heads()
    rows = {
        "self_attn.q_proj": queries, "self_attn.k_proj": keys, "self_attn.v_proj": keys,
        "mlp.gate_proj": e.neurons, "mlp.up_proj": e.neurons,
    }
    columns = {"self_attn.o_proj": queries, "mlp.down_proj": e.neurons}
    for layer, (of, new) in enumerate(e.layers()):
        old, name = f"{prefix}layers.{of}.", f"{prefix}layers.{layer}."
        out = e.norm(old + "input_layernorm") | e.norm(old + "post_attention_layernorm")
        for part in (p for p in rows if old + p + ".weight" in e.weights):
            matrix = e.weights[f"{old}{part}.weight"]
            out[f"{old}{part}.weight"] = e.read(None, rows[part].spread(matrix))
            if f"{old}{part}.bias" in e.weights:
                out[f"{old}{part}.bias"] = rows[part].spread(e.weights[f"{old}{part}.bias"])
        for part, read in columns.items():
            matrix = e.write(e.weights[f"{old}{part}.weight"], read, False)
            out[f"{old}{part}.weight"] = np.zeros_like(matrix) if new else matrix
            if f"{old}{part}.bias" in e.weights:
                bias = e.bias(e.weights[f"{old}{part}.bias"], False)
                out[f"{old}{part}.bias"] = e.rules.new_bias(bias) if new else bias
        e.out |= {name + part.removeprefix(old): array for part, array in out.items()}
    e.finish(prefix + "norm", prefix + "embed_tokens.weight", False)


FAMILIES = {"gpt2": gpt2, "llama": llama, "mistral": llama, "qwen2": llama}


class Expander:
    """Families by name, with the rules by which they are expanded."""

    def __init__(self, families=FAMILIES, rules=Rules()):
        self.families, self.rules = {name: FAMILIES[name] for name in families}, rules

    def answer(self, request):
        """Expands the model that a request names, and writes the larger one's weights."""
        family = self.families.get(request["family"])
        if family is None:
            return {"unsupported": f"no family {request['family']}"}
        configs = []
        for path in os.path.join(request["model"], "config.json"), request["config"]:
            with open(path) as file:
                configs.append(json.load(file))
        weights = tensors.read(os.path.join(request["model"], "model.safetensors"))
        weights = {name: np.asarray(array, np.float64) for name, array in weights.items()}
        sizes = request["source"], request["target"]
        expansion = Expansion(self.rules, weights, configs, sizes)
        try:
            family(expansion)
        except Unsupported as why:
            return {"unsupported": str(why)}
        tensors.write(request["outputs"], expansion.out, request["dtype"])
        return {"ok": True}
