//! Rules of vectors, tables, heads and rotary channels.
//!
//! - `rule_vector` reads the map `map`, `stored` `[source]`, `residue` `[expanded]` and `offset`;
//!   returns `y = E (stored + offset) − offset`, with `residue − offset` where the map has zeros.
//! - `rule_rows` reads `map` and `matrix` `[source, n]`; returns `y = E matrix`.
//! - `rule_columns` reads `map` and `matrix` `[n, source]`; returns `y = matrix Eᵀ`.
//! - `rule_tied_growth` reads the maps `table` and `read`; returns `y` `[1]`: how often both copy
//!   coordinate 0 at one place, times both scales.
//! - `rule_copy_heads` reads `source_heads`, `source_kv_heads`, `heads`, `kv_heads`; returns
//!   `query` `[heads]` and `key_value` `[kv_heads]`, whole numbers: key/value heads go round, and
//!   the query heads that read copies of one go round among its query heads.
//! - `rule_rotary_channels` reads `source` `[pairs]` and `expanded` `[more pairs]`, frequencies,
//!   and `source_dim` and `expanded_dim`, channels per head; returns `entries` `[expanded_dim]`, as
//!   maps have them: a pair goes to the first free pair of the same frequency, in order; channels
//!   that are not turned to the first such channels; the rest is zero.

use super::rule_maps::{Dense, ZERO, put};
use super::{Inputs, Maker, Outputs};
use crate::backend::bound::{Bounded, Format};
use crate::testing::random::Draw;
use ndarray::{Array2, Axis};

fn sizes(maker: &Maker) -> (usize, usize) {
    let source = maker.size("source");
    (source, source + maker.size("grown"))
}

fn make_map(maker: &mut Maker) -> (usize, usize) {
    let sizes = sizes(maker);
    put(maker, "map", maker.size("map"), sizes, maker.on("map_scale"));
    sizes
}

pub(super) fn make_vector(maker: &mut Maker) {
    let (source, expanded) = make_map(maker);
    maker.numbers("stored", &[source]);
    maker.weights("residue", &[expanded], 1.0, 0.5);
    maker.set("offset", if maker.on("offset") { 1.0 } else { 0.0 });
}

pub(super) fn make_rows(maker: &mut Maker) {
    let (source, _) = make_map(maker);
    maker.numbers("matrix", &[source, maker.size("columns")]);
}

pub(super) fn make_columns(maker: &mut Maker) {
    let (source, _) = make_map(maker);
    maker.numbers("matrix", &[maker.size("columns"), source]);
}

pub(super) fn make_tied(maker: &mut Maker) {
    let sizes = sizes(maker);
    let kind = if maker.on("average") { 2 } else { 1 };
    put(maker, "table", kind, sizes, maker.on("table_scale"));
    put(maker, "read", 1, sizes, maker.on("read_scale"));
}

pub(super) fn make_heads(maker: &mut Maker) {
    let [kv_heads, group, more, to_group] =
        ["kv_heads", "group", "more_kv", "to_group"].map(|name| maker.size(name));
    // As many key/value heads as the smaller groups need.
    let to_kv = kv_heads * group.div_ceil(to_group) + more;
    let counts = [kv_heads * group, kv_heads, to_kv * to_group, to_kv];
    for (name, count) in
        ["source_heads", "source_kv_heads", "heads", "kv_heads"].into_iter().zip(counts)
    {
        maker.set(name, count);
    }
}

pub(super) fn make_channels(maker: &mut Maker) {
    let [pairs, rest, factor, more] =
        ["pairs", "rest", "factor", "more_rest"].map(|name| maker.size(name));
    let frequency = |pair: usize, of: usize| libm::pow(10_000.0, -(pair as f64) / of as f64);
    let many = pairs * factor;
    let mut source: Vec<f64> = (0..pairs).map(|pair| frequency(pair * factor, many)).collect();
    let expanded: Vec<f64> = (0..many).map(|pair| frequency(pair, many)).collect();
    if maker.on("shuffled") {
        let order = maker.random("order").permutation(pairs);
        source = order.into_iter().map(|pair| source[pair]).collect();
    }
    maker.put("source", &[pairs], source);
    maker.put("expanded", &[many], expanded);
    maker.set("source_dim", 2 * pairs + rest);
    maker.set("expanded_dim", 2 * many + rest + more);
}

pub(super) fn vector<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    Outputs::vector("y", mapped(inputs, &Dense::of(inputs, "map"), "stored", "residue"))
}

/// `E (stored + offset) − offset`, and the residue where the map has zeros.
pub(super) fn mapped<F: Format>(
    inputs: &Inputs<F>,
    map: &Dense<F>,
    stored: &str,
    residue: &str,
) -> Vec<Bounded<F>> {
    let offset = inputs.constant("offset");
    let stored = inputs.vector(stored).mapv(|value| value + offset).insert_axis(Axis(1));
    let expanded = map.rows(&stored);
    let free = inputs.vector(residue);
    let values = map.entries.iter().enumerate().map(|(index, entry)| match *entry {
        ZERO => free[index] - offset,
        _ => expanded[[index, 0]] - offset,
    });
    values.collect()
}

pub(super) fn rows<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    Outputs::matrix("y", Dense::of(inputs, "map").rows(&inputs.matrix("matrix")))
}

pub(super) fn columns<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let transposed: Array2<Bounded<F>> = inputs.matrix("matrix").reversed_axes();
    Outputs::matrix("y", Dense::of(inputs, "map").rows(&transposed).reversed_axes())
}

pub(super) fn tied<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let (table, read) = (Dense::of(inputs, "table"), Dense::of(inputs, "read"));
    let pairs = table.entries.iter().zip(&read.entries);
    let copies = pairs.filter(|pair| *pair == (&0, &0)).count();
    Outputs::vector("y", [Bounded::exact(copies as f64) * table.scale * read.scale])
}

pub(super) fn heads<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let [source_heads, source_kv, heads, kv_heads] =
        ["source_heads", "source_kv_heads", "heads", "kv_heads"].map(|name| inputs.count(name));
    let (from, to) = (source_heads / source_kv, heads / kv_heads);
    // For each source key/value head, which of its query heads is copied next.
    let mut next = vec![0; source_kv];
    let mut query = Vec::new();
    for key_value in 0..kv_heads {
        let read = key_value % source_kv;
        for _ in 0..to {
            query.push((read * from + next[read] % from) as i64);
            next[read] += 1;
        }
    }
    let key_value = (0..kv_heads).map(|head| (head % source_kv) as i64).collect();
    Outputs::integers("query", query).and_integers("key_value", key_value)
}

pub(super) fn channels<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let (source, expanded) = (inputs.vector("source"), inputs.vector("expanded"));
    let [from, to] = ["source_dim", "expanded_dim"].map(|name| inputs.count(name));
    let mut entries = vec![ZERO; to];
    for (pair, wanted) in source.iter().enumerate() {
        let free = |place: &usize| entries[*place] == ZERO && expanded[*place] == *wanted;
        let Some(place) = (0..expanded.len()).find(free) else { continue };
        entries[place] = pair as i64;
        entries[place + expanded.len()] = (pair + source.len()) as i64;
    }
    for (index, channel) in (2 * source.len()..from).enumerate() {
        entries[2 * expanded.len() + index] = channel as i64;
    }
    Outputs::integers("entries", entries)
}
