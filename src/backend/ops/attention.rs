//! `rotary` and `attention`.
//!
//! `rotary` reads `x` `[tokens, heads·head_dim]`, `frequencies` `[pairs]`, maybe `positions`
//! `[tokens]` (whole numbers; else 0, 1, 2 …) and `head_dim`; returns `y` like `x`: at position p,
//! channels i and i + pairs of each head are turned by the angle p·frequencies\[i\] to
//! `a·cos − b·sin` and `b·cos + a·sin`; channels from 2·pairs on pass.
//!
//! `attention` reads `query` `[tokens, heads·head_dim]`, `key` and `value`
//! `[keys, kv_heads·head_dim]`, `heads`, `kv_heads`, `head_dim`, `scale`, `causal`, and maybe
//! `mask` `[keys]` (whole numbers: 1 visible, 0 hidden), `window`, `softcap` and `frequencies`
//! (rotary positions of queries and keys, before the product). It returns `y` like `query`. Query
//! head h reads key/value head h / (heads/kv_heads). A logit is `scale·q·k`, with `softcap`
//! `cap·tanh(logit/cap)`. With `causal`, position i sees keys ≤ i; with `window`, keys > i −
//! window. Rows that see no key are not compared.

use super::softmax::softmax;
use super::{Inputs, Maker, Outputs};
use crate::backend::bound::{Bounded, Format};
use crate::forward::Real;
use crate::testing::random::Draw;
use ndarray::{Array1, Array2, s};

pub(super) fn make_rotary(maker: &mut Maker) {
    let [tokens, heads, pairs, rest] =
        ["tokens", "heads", "pairs", "rest"].map(|name| maker.size(name));
    let head_dim = 2 * pairs + rest;
    maker.set("head_dim", head_dim);
    maker.numbers("x", &[tokens, heads * head_dim]);
    frequencies(maker, pairs);
    if maker.on("positions") {
        let mut rng = maker.random("positions");
        let positions: Vec<i64> = (0..tokens).map(|_| rng.below(40) as i64).collect();
        maker.integers("positions", &positions);
    }
}

fn frequencies(maker: &mut Maker, pairs: usize) {
    let base = maker.random("frequencies").pick(&[10_000.0f64, 500.0, 10.0]);
    let frequency = |pair: usize| libm::pow(base, -(pair as f64) / pairs as f64);
    maker.put("frequencies", &[pairs], (0..pairs).map(frequency).collect());
}

pub(super) fn make(maker: &mut Maker) {
    let [tokens, kv_heads, group] = ["tokens", "kv_heads", "group"].map(|name| maker.size(name));
    let cross = maker.on("cross");
    let keys = if cross { maker.size("keys") } else { tokens };
    let rotary = maker.on("rotary") && !cross;
    // Rotary positions turn pairs.
    let head_dim = match rotary {
        true => maker.size("head_dim").next_multiple_of(2),
        false => maker.size("head_dim"),
    };
    let heads = kv_heads * group;
    for (name, count) in [("heads", heads), ("kv_heads", kv_heads), ("head_dim", head_dim)] {
        maker.set(name, count);
    }
    maker.set("scale", 1.0 / (head_dim as f64).sqrt());
    maker.set("causal", maker.on("causal") && !cross);
    maker.numbers("query", &[tokens, heads * head_dim]);
    maker.weights("key", &[keys, kv_heads * head_dim], 0.0, 1.0);
    maker.weights("value", &[keys, kv_heads * head_dim], 0.0, 1.0);
    if maker.on("mask") {
        maker.mask("mask", keys);
    }
    if maker.on("windowed") && !cross {
        maker.set("window", maker.size("window"));
    }
    if maker.on("softcap") {
        maker.set("softcap", 5.0);
    }
    if rotary {
        frequencies(maker, head_dim / 2);
    }
}

pub(super) fn rotary<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let mut x = inputs.matrix("x");
    let positions = match inputs.has("positions") {
        true => inputs.integers("positions"),
        false => (0..x.nrows() as i64).collect(),
    };
    turn(&mut x, &inputs.vector("frequencies"), inputs.count("head_dim"), &positions);
    Outputs::matrix("y", x)
}

/// Turns the pairs of each head.
fn turn<F: Format>(
    x: &mut Array2<Bounded<F>>,
    frequencies: &Array1<Bounded<F>>,
    head_dim: usize,
    positions: &[i64],
) {
    let pairs = frequencies.len();
    for (position, mut row) in positions.iter().zip(x.outer_iter_mut()) {
        for mut head in row.exact_chunks_mut(head_dim) {
            for (pair, frequency) in frequencies.iter().enumerate() {
                let (sin, cos) = (Bounded::exact(*position as f64) * *frequency).sin_cos();
                let (a, b) = (head[pair], head[pair + pairs]);
                head[pair] = a * cos - b * sin;
                head[pair + pairs] = b * cos + a * sin;
            }
        }
    }
}

pub(super) fn compute<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let [heads, kv_heads, head_dim] =
        ["heads", "kv_heads", "head_dim"].map(|name| inputs.count(name));
    let mut query = inputs.matrix("query");
    let (mut key, value) = (inputs.matrix("key"), inputs.matrix("value"));
    if inputs.has("frequencies") {
        let frequencies = inputs.vector("frequencies");
        for x in [&mut query, &mut key] {
            let positions: Vec<i64> = (0..x.nrows() as i64).collect();
            turn(x, &frequencies, head_dim, &positions);
        }
    }
    let mask = inputs.mask("mask", key.nrows());
    let window = inputs.number("window").map_or(usize::MAX, |window| window as usize);
    let sees = |i: usize, j: usize| {
        mask[j] && (!inputs.flag("causal") || j <= i) && j.saturating_add(window) > i
    };
    let mut y = Array2::from_elem(query.dim(), Bounded::unknown());
    for head in 0..heads {
        let read = head / (heads / kv_heads);
        let part = |head: usize| s![.., head * head_dim..(head + 1) * head_dim];
        let (query, key) = (query.slice(part(head)), key.slice(part(read)));
        let (value, mut out) = (value.slice(part(read)), y.slice_mut(part(head)));
        for (i, mut out) in out.outer_iter_mut().enumerate() {
            let visible: Vec<bool> = (0..key.nrows()).map(|j| sees(i, j)).collect();
            if !visible.contains(&true) {
                continue;
            }
            let logits: Array1<Bounded<F>> =
                key.outer_iter().map(|key| logit(inputs, query.row(i), key)).collect();
            let weights = softmax(logits.view(), &visible);
            for (channel, out) in out.iter_mut().enumerate() {
                *out = weights.iter().zip(value.column(channel)).map(|(w, v)| *w * *v).sum();
            }
        }
    }
    Outputs::matrix("y", y)
}

fn logit<F: Format>(
    inputs: &Inputs<F>,
    query: ndarray::ArrayView1<Bounded<F>>,
    key: ndarray::ArrayView1<Bounded<F>>,
) -> Bounded<F> {
    let product: Bounded<F> = query.iter().zip(key).map(|(q, k)| *q * *k).sum();
    let logit = product * inputs.constant("scale");
    match inputs.number("softcap") {
        None => logit,
        Some(_) => {
            let cap = inputs.constant("softcap");
            cap * (logit / cap).tanh()
        }
    }
}
