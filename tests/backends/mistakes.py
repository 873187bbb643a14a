"""Mistakes that others made or might make: each replaces operations by ones that are nearly right.

They are there so that tests can see them found. Kernels are cut into tiles of TILE.
"""

import math

import numpy as np

import ops
import rules
from expand import Rules
from forward import FUNCTIONS, Parts
from rules import MEAN, ZERO, Map

TILE = 4


def padding(count):
    return -count % TILE


def tile_edge_not_masked(m, x):
    """The last tile of a product reads on where the row has ended."""
    count = x.values("x").shape[1]
    index = np.arange(count + padding(count)) % count
    arrays = {name: m.take(x[name], index, 1) for name in ["x", "weight"]}
    return ops.linear(m, x.changed(arrays=arrays))


def last_tile_skipped(m, x):
    count = x.values("weight").shape[0]
    y = ops.linear(m, x)["y"]
    kept = np.broadcast_to(np.arange(count) < max(count // TILE * TILE, 1), y.shape)
    return {"y": m.where(kept, y, 0.0)}


def accumulated_in_f16(m, x):
    total = np.float16(0)
    for a, b in zip(np.asarray(x["x"]).T, np.asarray(x["weight"]).T):
        total = (total + np.outer(a, b).astype(np.float16)).astype(np.float16)
    y = m.array(total)
    return {"y": y + x["bias"] if "bias" in x else y}


def bias_added_twice(m, x):
    y = ops.linear(m, x)["y"]
    return {"y": y + x["bias"] if "bias" in x else y}


def centred(m, x):
    return x["x"] - m.sum(x["x"], 1) / x.values("x").shape[1]


def scaled_and_shifted(m, x, y):
    y = y * (x["weight"] + x.attribute("offset", 0.0)) if "weight" in x else y
    return y + x["bias"] if "bias" in x else y


def norms(deviation):
    """Both norms, with another deviation of what is centred, of a number of columns, and of ε."""

    def norm(m, x, centre):
        y = centre / deviation(m, centre, x.values("x").shape[1], x.attribute("eps"))
        return {"y": scaled_and_shifted(m, x, y)}

    return {
        "layer_norm": lambda m, x: norm(m, x, centred(m, x)),
        "rms_norm": lambda m, x: norm(m, x, x["x"]),
    }


def square(m, c, count):
    return m.sum(c * c, 1) / count


def weight_offset_forgotten(m, x):
    return ops.rms_norm(m, x.changed(attributes={"offset": 0.0}))


def softmax_without_max(m, x):
    powers = m.exp(x["x"])
    if "mask" in x:
        powers = powers * m.array(x.values("mask"))
    return {"y": powers / m.sum(powers, 1)}


def masked_by_a_small_number(m, x):
    hidden = m.array(x.values("mask") - 1) * 10.0 if "mask" in x else 0.0
    return ops.softmax(m, x.changed(arrays={"x": x["x"] + hidden}, without=["mask"]))


def quick_gelu(m, x):
    return {"y": x["x"] / (1.0 + m.exp(-1.702 * x["x"]))}


def gelu_by_tanh(m, x):
    return {"y": ops.FUNCTIONS["gelu_tanh"](m, x["x"])}


def gate_and_up_swapped(m, x):
    pairs = [("gate", "up"), ("gate_bias", "up_bias")]
    swapped = {a: x[b] for pair in pairs if pair[0] in x for a, b in [pair, pair[::-1]]}
    return ops.gated_mlp(m, x.changed(arrays=swapped))


def bias_of_up_forgotten(m, x):
    return ops.mlp(m, x.changed(without=["up_bias"]))


def embedding_scale_forgotten(m, x):
    return ops.embedding(m, x.changed(without=["scale"]))


def last_row_never_read(m, x):
    last = max(x.values("table").shape[0] - 2, 0)
    ids = np.minimum(x.values("ids"), last)
    return ops.embedding(m, x.changed(stored={"ids": ids}))


def rotary_pairs_side_by_side(m, x):
    """Turns channels 2i and 2i + 1 instead of i and i + pairs."""
    pairs, head_dim = x.values("frequencies").shape[0], x.attribute("head_dim")
    order = np.concatenate([np.arange(0, 2 * pairs, 2), np.arange(1, 2 * pairs, 2)])
    order = np.concatenate([order, np.arange(2 * pairs, head_dim)])
    count = x.values("x").shape[1] // head_dim
    places = (np.arange(count)[:, None] * head_dim + order).ravel()
    y = ops.rotary(m, x.changed(arrays={"x": m.take(x["x"], places, 1)}))["y"]
    return {"y": m.take(y, np.argsort(places), 1)}


def rotary_turned_backwards(m, x):
    return ops.rotary(m, x.changed(arrays={"frequencies": x["frequencies"] * -1.0}))


def positions_ignored(m, x):
    return ops.rotary(m, x.changed(without=["positions"]))


def attends(**changes):
    """Attention with other attributes, each made of the right one."""

    def attention(m, x):
        new = {name: change(x) for name, change in changes.items() if x.attribute(name)}
        return ops.attention(m, x.changed(attributes=new))

    return {"attention": attention}


def sees_the_next_token(m, x):
    """j ≤ i + 1 instead of j ≤ i."""
    right = ops.visible

    def visible(x, tokens, keys):
        seen = right(x.changed(attributes={"causal": False}), tokens, keys)
        return seen & (np.arange(keys) <= np.arange(tokens)[:, None] + bool(x.attribute("causal")))

    ops.visible = visible if x.attribute("causal") else right
    try:
        return ops.attention(m, x)
    finally:
        ops.visible = right


def key_value_heads_interleaved(m, x):
    """Query head h reads key/value head h mod kv_heads."""
    kv, dim = x.attribute("kv_heads"), x.attribute("head_dim")
    count = x.attribute("heads")
    wanted = np.arange(count) % kv
    places = (wanted[:, None] * dim + np.arange(dim)).ravel()
    arrays = {name: m.take(x[name], places, 1) for name in ["key", "value"]}
    return ops.attention(m, x.changed(arrays=arrays, attributes={"kv_heads": count}))


def keys_not_turned(m, x):
    if "frequencies" not in x:
        return ops.attention(m, x)
    tokens = x.values("query").shape[0]
    query = ops.turn(m, ops.heads(m, x, "query", -1), x, np.arange(tokens))
    query = m.reshape(query, x.values("query").shape)
    return ops.attention(m, x.changed(arrays={"query": query}, without=["frequencies"]))


def norm_rule(**changes):
    """`rule_norm`, with some of what it returns changed, knowing η."""

    def norm(m, x):
        source, expanded = x.values("weight").shape[0], x.attribute("expanded")
        whole = expanded // source * source
        right = rules.rule_norm(m, x)
        eta, copies = math.sqrt(whole / expanded), np.arange(expanded) < whole
        return {**right, **{k: change(m, x, right[k], eta, copies) for k, change in changes.items()}}

    return {"rule_norm": norm}


def weight_by(factor):
    def change(m, x, y, eta, copies):
        offset = x.attribute("offset")
        return m.where(copies, (y + offset) * factor(eta) - offset, y)

    return norm_rule(weight=change)


def mapped(rule, change):
    """A rule with a changed Map."""

    class Wrong(Map):
        pass

    for name, function in change.items():
        setattr(Wrong, name, function)

    def operation(m, x):
        right, rules.Map = rules.Map, Wrong
        try:
            return rules.OPERATIONS[rule](m, x)
        finally:
            rules.Map = right

    return {rule: operation}


def means_become(entries):
    return lambda self, m, matrix: Map(entries(self), self.sources, self.scale).rows(m, matrix)


def circular(map):
    index = np.arange(len(map.entries)) % map.sources
    return np.where(map.entries == MEAN, index, map.entries)


def mean_over_the_expanded_width(self, m, matrix):
    rows = Map.rows(self, m, matrix)
    wrong = rows * (self.sources / len(self.entries))
    means = np.broadcast_to((self.entries == MEAN)[:, None], rows.shape)
    return m.where(means, wrong, rows)


def split_like_a_weight(self, m, matrix):
    return Map.rows(self, m, matrix) * m.array(self.shares("equal")[:, None])


def initial_not_hidden(m, x):
    columns = Map.of(x, "columns")
    rows = Map.of(x, "rows").entries >= 0
    kept = np.broadcast_to(rows[:, None], (len(rows), len(columns.entries)))
    return {"y": m.where(kept, x["initial"], 0.0)}


def scale_multiplied(m, x):
    scale = x.attribute("columns_scale")
    return rules.rule_linear(m, x.changed(attributes={"columns_scale": 1 / scale}))


def offset_forgotten(m, x):
    return rules.rule_vector(m, x.changed(attributes={"offset": 0.0}))


def read_scale_forgotten(m, x):
    return rules.rule_tied_growth(m, x.changed(attributes={"read_scale": 1.0}))


def heads_in_a_circle(m, x):
    right = rules.rule_copy_heads(m, x)
    return {**right, "query": np.arange(x.attribute("heads")) % x.attribute("source_heads")}


def key_value_heads_repeated(m, x):
    right = rules.rule_copy_heads(m, x)
    count, source = x.attribute("kv_heads"), x.attribute("source_kv_heads")
    return {**right, "key_value": np.sort(np.arange(count) % source)}


def pairs_to_the_first_places(m, x):
    source, expanded = (x.values(name).shape[0] for name in ["source", "expanded"])
    entries = np.full(x.attribute("expanded_dim"), ZERO)
    entries[:source], entries[expanded : expanded + source] = range(source), range(source, 2 * source)
    rest = np.arange(2 * source, x.attribute("source_dim"))
    entries[2 * expanded : 2 * expanded + len(rest)] = rest
    return {"entries": entries}


def layer_scale_copied(m, x):
    right = rules.rule_layer_scale(m, x)
    stream = Map.of(x, "stream")
    return {**right, "write": stream.rows(m, m.array(np.eye(stream.sources)))}


def eps_of_the_first_norm_alone(m, x):
    right = rules.rule_norms_in_a_row(m, x)
    return {**right, "eps": m.array(np.array([x.attribute("eps")]))}


MISTAKES = {
    "tile_edge_not_masked": {"linear": tile_edge_not_masked},
    "last_tile_skipped": {"linear": last_tile_skipped},
    "accumulated_in_f16": {"linear": accumulated_in_f16},
    "bias_added_twice": {"linear": bias_added_twice},
    "reduction_over_the_padded_size": norms(
        lambda m, c, n, eps: m.sqrt(square(m, c, n + padding(n)) + eps)
    ),
    "eps_outside_the_root": norms(lambda m, c, n, eps: m.sqrt(square(m, c, n)) + eps),
    "eps_forgotten": norms(lambda m, c, n, eps: m.sqrt(square(m, c, n))),
    "unbiased_variance": norms(lambda m, c, n, eps: m.sqrt(square(m, c, max(n - 1, 1)) + eps)),
    "weight_offset_forgotten": {"rms_norm": weight_offset_forgotten},
    "softmax_without_max": {"softmax": softmax_without_max},
    "masked_by_a_small_number": {"softmax": masked_by_a_small_number},
    "quick_gelu": {"gelu": quick_gelu},
    "gelu_by_tanh": {"gelu": gelu_by_tanh},
    "gate_and_up_swapped": {"gated_mlp": gate_and_up_swapped},
    "bias_of_up_forgotten": {"mlp": bias_of_up_forgotten},
    "embedding_scale_forgotten": {"embedding": embedding_scale_forgotten},
    "last_row_never_read": {"embedding": last_row_never_read},
    "rotary_pairs_side_by_side": {"rotary": rotary_pairs_side_by_side},
    "rotary_turned_backwards": {"rotary": rotary_turned_backwards},
    "positions_ignored": {"rotary": positions_ignored},
    "window_off_by_one": attends(window=lambda x: x.attribute("window") + 1),
    "sees_the_next_token": {"attention": sees_the_next_token},
    "key_value_heads_interleaved": {"attention": key_value_heads_interleaved},
    "keys_not_turned": {"attention": keys_not_turned},
    "logit_scale_forgotten": attends(scale=lambda x: 1.0),
    "softcap_forgotten": attends(softcap=lambda x: None),
    "eta_forgotten": weight_by(lambda eta: 1 / eta),
    "eta_inverted": weight_by(lambda eta: eta**-2),
    "eps_not_scaled": norm_rule(eps_factor=lambda m, x, y, eta, copies: y / eta**2),
    "eps_scaled_by_eta": norm_rule(eps_factor=lambda m, x, y, eta, copies: y / eta),
    "residue_of_beta_kept": norm_rule(
        bias=lambda m, x, y, eta, copies: m.where(copies, y, x["residue"])
    ),
    "one_gamma_off": norm_rule(
        weight=lambda m, x, y, eta, copies: y + m.array(1e-4 * (np.arange(len(copies)) == 0))
    ),
    "average_replaced_by_zero": mapped("rule_rows", {"rows": means_become(
        lambda map: np.where(map.entries == MEAN, ZERO, map.entries)
    )}),
    "average_replaced_by_circular": mapped("rule_rows", {"rows": means_become(circular)}),
    "mean_over_the_expanded_width": mapped("rule_rows", {"rows": mean_over_the_expanded_width}),
    "map_scale_forgotten": mapped("rule_columns", {
        "rows": lambda self, m, matrix: Map(self.entries, self.sources).rows(m, matrix)
    }),
    "bias_split_like_a_weight": mapped("rule_vector", {"rows": split_like_a_weight}),
    "weight_offset_not_added": {"rule_vector": offset_forgotten},
    "fan_out_not_split": mapped("rule_linear", {
        "shares": lambda self, how: (self.entries >= 0).astype(float)
    }),
    "fan_out_sum_off": mapped("rule_linear", {
        "shares": lambda self, how: Map.shares(self, how) * (1 + 1e-4)
    }),
    "map_scale_multiplied": {"rule_linear": scale_multiplied},
    "initial_not_hidden": {"rule_cancelling": initial_not_hidden},
    "second_copy_not_negated": mapped("rule_opposite", {
        "shares": lambda self, how: np.abs(Map.shares(self, how))
    }),
    "tied_factor_forgotten": {"rule_tied_growth": read_scale_forgotten},
    "heads_in_a_circle": {"rule_copy_heads": heads_in_a_circle},
    "key_value_heads_repeated": {"rule_copy_heads": key_value_heads_repeated},
    "pairs_to_the_first_places": {"rule_rotary_channels": pairs_to_the_first_places},
    "layer_scale_copied": {"rule_layer_scale": layer_scale_copied},
    "eps_of_the_first_norm_alone": {"rule_norms_in_a_row": eps_of_the_first_norm_alone},
}


def family(**changes):
    """What models are made of, with some of it replaced."""
    return type("Wrong", (Parts,), {name: staticmethod(change) for name, change in changes.items()})()


# Of whole models, with the families in which each is made.
FORWARD = {
    "model_sees_the_next_token": (family(sees=lambda i, j: j <= i + 1), ["gpt2", "llama"]),
    "model_turns_pairs_side_by_side": (
        family(pairs=lambda half: (np.arange(0, 2 * half, 2), np.arange(1, 2 * half, 2))),
        ["llama", "qwen3"],
    ),
    "model_eps_outside_the_root": (
        family(deviation=lambda m, square, eps: m.sqrt(square) + eps), ["gpt2", "llama", "bert"],
    ),
    "model_key_value_heads_interleaved": (
        family(key_value_heads=lambda heads, kv_heads: np.arange(heads) % kv_heads), ["llama"],
    ),
    "model_window_off_by_one": (
        family(near=lambda i, j, window: j >= i - window), ["mistral", "qwen2"],
    ),
    "model_attends_to_padding": (family(mask=lambda mask: None), ["bert", "gpt2"]),
    "model_token_types_forgotten": (
        family(types=lambda ids, tokens: np.zeros(tokens, int)), ["bert"],
    ),
    "model_weight_offset_forgotten": (family(norm_offset=lambda offset: 0.0), ["gemma"]),
    "model_embedding_scale_forgotten": (family(embedding_scale=lambda scale: 1.0), ["gemma"]),
    "model_gelu_by_tanh": (
        family(function=lambda name: FUNCTIONS["gelu_new" if name == "gelu" else name]), ["bert"],
    ),
}


def expansion(**changes):
    """The rules of expansion, with some of them replaced."""
    return type("Wrong", (Rules,), {name: staticmethod(change) for name, change in changes.items()})()


# Of whole expansions, with the families in which each is made.
EXPAND = {
    "expands_without_eta": (expansion(eta=lambda copies, small, large: 1.0), ["gpt2", "llama"]),
    "expands_with_eta_squared": (
        expansion(eta=lambda copies, small, large: copies * small / large), ["gpt2", "llama"],
    ),
    "expands_the_mean_to_zero": (expansion(residue=lambda table: 0.0), ["gpt2"]),
    "expands_a_tied_head_twice": (expansion(tied=lambda copies: 1.0), ["gpt2", "llama"]),
    "expands_queries_unscaled": (expansion(query_scale=lambda small, large: 1.0), ["gpt2"]),
    "expands_heads_in_a_circle": (
        expansion(heads=lambda source, kv_source, target, kv_target: np.arange(target) % source),
        ["llama"],
    ),
    "expands_with_a_bias_left": (expansion(new_bias=lambda bias: bias), ["gpt2"]),
}
