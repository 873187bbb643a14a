//! *Composable Function-preserving Expansions for Transformer Architectures* (Gesmundo, Maile;
//! 2023, arXiv 2308.06103): new parts are random where they read and zero where they write. MLP
//! (section 3.1), heads (3.2), value channels (3.3), query/key channels with the factor
//! sqrt(k̂/k) on one of the two (3.4), hidden channels with γ times sqrt(h/ĥ) (3.5), layers (3.6).
//! The paper's norm is an RMSNorm without ε: with one, it is scaled by h/ĥ.

use crate::axis::{Axis, Fill};
use crate::grow::{Described, Growth, Layer};
use crate::judge::{
    ALL, PRE_LAYER_NORM, any, attention, edited, lossless, lossy, source, telling, told,
};
use lemon_check::check::Detail;
use lemon_check::testing::Architecture;

/// Random where it is written, zero where it is read.
fn unread(size: usize, grown: usize) -> Axis {
    Axis::padded(size, grown, Fill::Random, Fill::Zero)
}

#[test]
fn neurons_that_nothing_reads_are_lossless() {
    for architecture in ALL {
        for seed in 0..12 {
            let source = source(architecture, seed, any);
            let mut growth = Growth::none(&source.model, seed);
            let neurons = source.model.sizes.intermediate;
            growth.layers.iter_mut().for_each(|l| l.neurons = unread(neurons, neurons + 3));
            let expanded = growth.build(&source);
            let what = format!("{architecture:?} {seed}");
            let found = lossless(&source, &expanded, &growth.hidden, &what);
            let grown = neurons + 3;
            let new = "1 copy each, 3 new with fan-outs of zero";
            told(&found, "neurons", &format!("{neurons} → {grown}: {new}"));
        }
    }
}

#[test]
fn heads_that_nothing_reads_are_lossless() {
    for seed in 0..12 {
        let source = source(Architecture::Llama, seed, any);
        let mut growth = Growth::none(&source.model, seed);
        let sizes = &source.model.sizes;
        let group = sizes.heads / sizes.kv_heads;
        for layer in &mut growth.layers {
            layer.heads = unread(sizes.heads, sizes.heads + 2 * group);
            layer.kv_heads = unread(sizes.kv_heads, sizes.kv_heads + 2);
        }
        let expanded = growth.build(&source);
        let found = lossless(&source, &expanded, &growth.hidden, &format!("{seed}"));
        told(&found, "heads", &format!("1 copy each, {} new with outputs of zero", 2 * group));
    }
}

/// Hidden channels are cloned, since no norm over channels lets a LayerNorm's be padded, and go to
/// longer heads, whose new channels nothing reads.
fn longer_heads(source: &Described, seed: u64) -> Growth {
    let mut growth = Growth::none(&source.model, seed);
    let sizes = &source.model.sizes;
    growth.hidden = Axis::tiled(sizes.hidden, 2);
    growth.logits = unread(sizes.head_dim, 2 * sizes.head_dim);
    growth.values = growth.logits.clone();
    growth
}

#[test]
fn longer_heads_are_lossless_with_the_factor_on_queries() {
    for architecture in [PRE_LAYER_NORM.as_slice(), &[Architecture::Bert]].concat() {
        for seed in 0..12 {
            let source = source(architecture, seed, any);
            let growth = longer_heads(&source, seed);
            let expanded = growth.build(&source);
            let what = format!("{architecture:?} {seed}");
            let found = lossless(&source, &expanded, &growth.hidden, &what);
            let size = source.model.sizes.head_dim;
            told(&found, "heads", &format!("as they are, of {size} → {} channels", 2 * size));
        }
    }
}

#[test]
fn longer_heads_without_the_factor_are_caught() {
    for architecture in PRE_LAYER_NORM {
        let scaled = |model: &_| attention(model).scale != 1.0;
        let source = telling(architecture, 1, scaled);
        let grown = longer_heads(&source, 1).build(&source);
        let factor = attention(&source.model).scale / attention(&grown.model).scale;
        let expanded = edited(&grown, |editor, model| {
            for lens in attention(model).query.lenses() {
                editor.edit(lens, |w| w.mapv_inplace(|v| v / factor)).unwrap();
            }
        });
        let found = lossy(&source, &expanded, &format!("{architecture:?}"));
        assert_eq!(found.certificate.failures[0].place, "layer 0 attention");
    }
}

#[test]
fn longer_rotary_heads_are_lossless_where_pairs_keep_their_frequency() {
    for seed in 0..12 {
        let source = source(Architecture::Llama, seed, any);
        let mut growth = Growth::none(&source.model, seed);
        let size = source.model.sizes.head_dim;
        // Pair i of a head of twice the size turns at half the rate of the frequency of pair 2i.
        let place = |i: usize| i.is_multiple_of(2).then_some(i / 2);
        growth.logits = Axis { of: (0..2 * size).map(place).collect(), ..unread(1, 1) };
        growth.values = unread(size, 2 * size);
        let expanded = growth.build(&source);
        lossless(&source, &expanded, &growth.hidden, &format!("{seed}"));
    }
}

/// Hidden channels that hold zero, which readers read at random.
fn padded(source: &Described, seed: u64) -> Growth {
    let mut growth = Growth::none(&source.model, seed);
    let hidden = source.model.sizes.hidden;
    let grown = hidden + 1 + (seed % 7) as usize;
    growth.hidden = Axis::padded(hidden, grown, Fill::Zero, Fill::Random);
    let ratio = hidden as f64 / grown as f64;
    (growth.norm, growth.eps) = (ratio.sqrt(), ratio);
    growth
}

#[test]
fn hidden_channels_of_zero_are_lossless_behind_an_rms_norm() {
    for seed in 0..24 {
        let source = source(Architecture::Llama, seed, any);
        let growth = padded(&source, seed);
        let expanded = growth.build(&source);
        let found = lossless(&source, &expanded, &growth.hidden, &format!("{seed}"));
        let (from, to) = (source.model.sizes.hidden, growth.hidden.len());
        let words = format!("{from} → {to}: every channel once, {} hold zero", to - from);
        told(&found, "hidden", &words);
    }
}

#[test]
fn hidden_channels_of_zero_with_the_norms_as_they_were_are_caught() {
    for seed in 0..6 {
        let source = telling(Architecture::Llama, seed, any);
        let growth = Growth { norm: 1.0, ..padded(&source, seed) };
        lossy(&source, &growth.build(&source), &format!("{seed}"));
        let growth = Growth { eps: 1.0, ..padded(&source, seed) };
        let found = lossy(&source, &growth.build(&source), &format!("{seed}"));
        assert_eq!(found.detail, Some(Detail::EpsLimited));
    }
}

#[test]
fn hidden_channels_of_zero_are_caught_behind_a_layer_norm() {
    for architecture in PRE_LAYER_NORM {
        for seed in 0..6 {
            let source = telling(architecture, seed, any);
            let mut growth = padded(&source, seed);
            let sizes = &source.model.sizes;
            growth.hidden = Axis::padded(sizes.hidden, 2 * sizes.hidden, Fill::Zero, Fill::Random);
            for layer in &mut growth.layers {
                layer.heads = unread(sizes.heads, 2 * sizes.heads);
                layer.kv_heads = layer.heads.clone();
            }
            (growth.norm, growth.eps) = (0.5f64.sqrt(), 0.5);
            lossy(&source, &growth.build(&source), &format!("{architecture:?} {seed}"));
        }
    }
}

#[test]
fn all_expansions_together_are_lossless() {
    for seed in 0..24 {
        let source = source(Architecture::Llama, seed, any);
        let mut growth = padded(&source, seed);
        let sizes = &source.model.sizes;
        let group = sizes.heads / sizes.kv_heads;
        let new = Layer { silent: true, ..growth.layers[0].clone() };
        growth.layers.insert((seed % 2) as usize, new);
        for layer in &mut growth.layers {
            layer.neurons = unread(sizes.intermediate, sizes.intermediate + 5);
            layer.heads = unread(sizes.heads, sizes.heads + group);
            layer.kv_heads = unread(sizes.kv_heads, sizes.kv_heads + 1);
        }
        let expanded = growth.build(&source);
        lossless(&source, &expanded, &growth.hidden, &format!("{seed}"));
    }
}
