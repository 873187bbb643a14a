"""The rules of expansion, over a library `m` of arrays. What each reads and returns is described in
src/backend/ops. A map is a list of entries: the source coordinate that is copied, MEAN or ZERO."""

import math

import numpy as np

MEAN, ZERO = -1, -2


class Map:
    def __init__(self, entries, sources, scale=1.0):
        self.entries, self.sources, self.scale = np.asarray(entries), sources, scale

    @classmethod
    def of(cls, x, name):
        attribute = lambda what: x.attribute(f"{name}_{what}")
        return cls(x.values(name + "_entries"), attribute("sources"), attribute("scale"))

    def rows(self, m, matrix):
        """E matrix."""
        mean = m.sum(matrix, 0) / self.sources
        places = {MEAN: self.sources, ZERO: self.sources + 1}
        index = np.array([places.get(entry, entry) for entry in self.entries.tolist()])
        return m.take(m.concat([matrix, mean, mean * 0.0], 0), index, 0) * self.scale

    def shares(self, how):
        """How much of a source coordinate's column each of its copies gets, but for the scale."""
        shares = np.zeros(len(self.entries))
        for entry in range(self.sources):
            copies = np.flatnonzero(self.entries == entry)
            if how == "equal":
                shares[copies] = 1 / max(len(copies), 1)
            elif how == "opposite":
                if len(copies) > 1:
                    shares[copies[:2]] = [0.5, -0.5]
            else:
                shares[copies[[0 if how == "first" else -1]]] = 1.0
        return shares


def rule_linear(m, x):
    return {"y": between(m, x, x.attribute("share"))}


def rule_cancelling(m, x):
    return {"y": between(m, x, "equal")}


def rule_opposite(m, x):
    return {"y": between(m, x, "opposite")}


def between(m, x, how):
    """E_out W L + Z (I - E_in L), the second term only in rows that are copies."""
    rows, columns = Map.of(x, "rows"), Map.of(x, "columns")
    shares = columns.shares(how)
    read = np.maximum(columns.entries, 0)
    terms = []
    if "weight" in x:
        written = m.take(rows.rows(m, x["weight"]), read, 1)
        terms.append(written * m.array(shares / columns.scale))
    if "initial" in x:
        terms.append(hidden(m, x["initial"], rows, columns, shares))
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]


def hidden(m, initial, rows, columns, shares):
    """Z (I - E_in L): what the columns of copies add up to is taken back, by shares."""
    entries = columns.entries
    copies = (entries[:, None] == entries[None, :]) & (entries[None, :] >= 0)
    read = initial @ m.array(copies.astype(float))
    if MEAN in entries:
        means = np.repeat((entries == MEAN)[:, None], len(entries), 1) & (entries >= 0)
        read = read + initial @ m.array(means.astype(float)) / columns.sources
    kept = np.broadcast_to((rows.entries >= 0)[:, None], (len(rows.entries), len(entries)))
    return m.where(kept, initial - read * m.array(shares), 0.0)


def rule_vector(m, x):
    return {"y": vector(m, Map.of(x, "map"), x["stored"], x["residue"], x.attribute("offset"))}


def vector(m, map, stored, residue, offset):
    """E (stored + offset) - offset, and the residue where the map has zeros."""
    column = m.reshape(stored, (map.sources, 1)) + offset
    expanded = m.reshape(map.rows(m, column), (len(map.entries),))
    return m.where(map.entries == ZERO, residue, expanded) - offset


def rule_rows(m, x):
    return {"y": Map.of(x, "map").rows(m, x["matrix"])}


def rule_columns(m, x):
    expanded = Map.of(x, "map").rows(m, m.transpose(x["matrix"], (1, 0)))
    return {"y": m.transpose(expanded, (1, 0))}


def rule_norm(m, x):
    source, expanded = x.values("weight").shape[0], x.attribute("expanded")
    whole = expanded // source * source
    entries = [i % source if i < whole else ZERO for i in range(expanded)]
    square, write = whole / expanded, x.attribute("write_scale")
    weight = Map(entries, source, math.sqrt(square) * write)
    bias = Map(entries, source, write)
    return {
        "weight": vector(m, weight, x["weight"], x["residue"], x.attribute("offset")),
        "bias": vector(m, bias, x["bias"], x["residue"] * 0.0, 0.0),
        "eps_factor": m.array(np.array([square * x.attribute("read_scale") ** 2])),
    }


def rule_norms_in_a_row(m, x):
    first = x.attribute("eps")
    gain, eps = 1.0, first
    for _ in range(1, x.attribute("count")):
        square = gain * gain + first
        gain, eps = gain / math.sqrt(square), eps * first / square
    return {"gain": m.array(np.array([gain])), "eps": m.array(np.array([eps]))}


def rule_layer_scale(m, x):
    stream, gains = Map.of(x, "stream"), x.values("gains").astype(float)
    mean_square = np.mean(gains * gains)
    exponent = np.clip(np.round(np.log2(np.sqrt(mean_square))), -14, 14) if mean_square else 0
    residue = 2.0**exponent
    # Gains, then the free factor.
    choices = m.concat([x["gains"], m.array(np.array([residue]))], 0)
    index = [entry if entry >= 0 else len(gains) for entry in stream.entries.tolist()]
    means = m.reshape(x["gains"], (1, len(gains))) / residue / len(gains)
    rows = m.concat([m.array(np.eye(len(gains))), means, means * 0.0], 0)
    places = {MEAN: len(gains), ZERO: len(gains) + 1}
    read = [places.get(entry, entry) for entry in stream.entries.tolist()]
    return {
        "factors": m.take(choices, np.array(index), 0),
        "write": m.take(rows, np.array(read), 0) * stream.scale,
    }


def rule_tied_growth(m, x):
    table, read = Map.of(x, "table"), Map.of(x, "read")
    copies = np.sum((table.entries == 0) & (read.entries == 0))
    return {"y": m.array(np.array([copies * table.scale * read.scale]))}


def rule_copy_heads(m, x):
    source, expanded = (
        (x.attribute(prefix + "heads"), x.attribute(prefix + "kv_heads"))
        for prefix in ["source_", ""]
    )
    group, wider = source[0] // source[1], expanded[0] // expanded[1]
    copied, query = [0] * source[1], []
    for key_value in range(expanded[1]):
        read = key_value % source[1]
        for _ in range(wider):
            query.append(read * group + copied[read] % group)
            copied[read] += 1
    return {"query": np.array(query), "key_value": np.arange(expanded[1]) % source[1]}


def rule_rotary_channels(m, x):
    source, expanded = x.values("source").tolist(), x.values("expanded").tolist()
    entries = np.full(x.attribute("expanded_dim"), ZERO)
    for pair, frequency in enumerate(source):
        free = [i for i, f in enumerate(expanded) if f == frequency and entries[i] == ZERO]
        if free:
            entries[free[0]], entries[free[0] + len(expanded)] = pair, pair + len(source)
    rest = np.arange(2 * len(source), x.attribute("source_dim"))
    entries[2 * len(expanded) : 2 * len(expanded) + len(rest)] = rest
    return {"entries": entries}


OPERATIONS = {
    rule.__name__: rule
    for rule in [
        rule_linear, rule_cancelling, rule_opposite, rule_vector, rule_rows, rule_columns,
        rule_norm, rule_norms_in_a_row, rule_layer_scale, rule_tied_growth, rule_copy_heads,
        rule_rotary_channels,
    ]
}
