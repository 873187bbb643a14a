//! bert2BERT: *Towards Reusable Pretrained Language Models* (Chen et al., ACL 2022, arXiv
//! 2110.07143). FPI, function-preserving initialisation (section 4.1): copied rows and columns,
//! the columns divided by the number of copies, heads copied as wholes. AKI, advanced knowledge
//! initialisation (section 4.2): new rows come from the next layer's matrix.

use crate::axis::Axis;
use crate::grow::{Described, Growth};
use crate::judge::{any, edited, lossless, lossy, mlp_of, never_lossless, source, telling, told};
use lemon_check::model::{Model, Op};
use lemon_check::testing::Architecture;
use lemon_check::testing::random::{Draw, generator};

/// `times` copies of all channels, in a random order behind the first.
fn shuffled(size: usize, times: usize, seed: u64) -> Axis {
    let mut axis = Axis::tiled(size, times);
    let order = generator(seed).permutation(size * (times - 1));
    let rest: Vec<Option<usize>> = order.iter().map(|at| axis.of[size + at]).collect();
    axis.of.splice(size.., rest);
    axis
}

/// A Post-LN norm sees the same mean and variance if every channel has as many copies.
fn preserving(source: &Described, times: usize, seed: u64) -> Growth {
    let mut rng = generator(seed);
    let mut growth = Growth::none(&source.model, seed);
    let sizes = &source.model.sizes;
    growth.hidden = shuffled(sizes.hidden, times, seed);
    for layer in &mut growth.layers {
        layer.neurons = Axis::drawn(sizes.intermediate, times * sizes.intermediate, &mut rng);
        layer.heads = Axis::drawn(sizes.heads, times * sizes.heads, &mut rng);
        layer.kv_heads = layer.heads.clone();
    }
    growth
}

#[test]
fn function_preserving_initialisation_is_lossless_at_divisible_widths() {
    for seed in 0..24 {
        let source = source(Architecture::Bert, seed, any);
        let growth = preserving(&source, 2 + (seed % 2) as usize, seed);
        let expanded = growth.build(&source);
        let found = lossless(&source, &expanded, &growth.hidden, &format!("{seed}"));
        let (from, to) = (source.model.sizes.hidden, growth.hidden.len());
        let hidden = format!("{from} → {to}: every channel copied {} times", to / from);
        told(&found, "hidden", &hidden);
        told(&found, "hidden", "read in equal shares");
        // A single neuron or head, drawn for every place, is copied; of more, each may be.
        told(&found, "neurons", "fan-outs split in equal shares (as Net2Net)");
        told(&found, "heads", "outputs split in equal shares (as Net2Net)");
    }
}

#[test]
fn function_preserving_initialisation_is_caught_at_other_widths() {
    for seed in 0..6 {
        let source = telling(Architecture::Bert, seed, |model| model.sizes.heads > 1);
        let mut growth = preserving(&source, 2, seed);
        let sizes = &source.model.sizes;
        // One head more, and the channels that it takes.
        let heads = sizes.heads + 1;
        growth.hidden.of.truncate(heads * sizes.head_dim);
        for layer in &mut growth.layers {
            layer.heads.of.truncate(heads);
            layer.kv_heads.of.truncate(heads);
        }
        lossy(&source, &growth.build(&source), &format!("{seed}"));
    }
}

/// New rows of everything that reads the stream come from the next layer.
fn advanced(source: &Described, seed: u64) -> Described {
    let growth = preserving(source, 2, seed);
    let mut next = growth.clone();
    let layers = next.layers.len();
    for at in 0..layers {
        next.layers[at].of = (at + 1).min(layers - 1);
    }
    let (own, next) = (growth.build(source), next.build(source));
    edited(&own, |editor, model| {
        for sublayer in model.layers.iter().flatten() {
            let op = &sublayer.branches[0].op;
            let readers = match op {
                Op::Attention(a) => vec![&a.query, &a.key, &a.value],
                Op::Mlp(m) => vec![&m.up],
                Op::Experts(_) => Vec::new(),
            };
            for lens in readers.into_iter().flat_map(|linear| linear.lenses()) {
                let other = lens.read(&next.checkpoint).unwrap();
                let first = lens.rows() / 2;
                let rows = ndarray::s![first.., ..];
                editor.edit(lens, |w| w.slice_mut(rows).assign(&other.slice(rows))).unwrap();
            }
        }
    })
}

#[test]
fn advanced_knowledge_initialisation_is_caught_in_the_first_layer() {
    for seed in 0..12 {
        let several = |model: &Model| model.sizes.layers > 1;
        let hidden = source(Architecture::Bert, seed, several);
        never_lossless(&hidden, &advanced(&hidden, seed), &format!("{seed}"));
        let source = telling(Architecture::Bert, seed, several);
        let expanded = advanced(&source, seed);
        let found = lossy(&source, &expanded, &format!("{seed}"));
        let root = &found.certificate.failures[0];
        assert_eq!(root.place, "layer 0 attention", "{seed}: {root:#?}");
        assert!(root.tensor.contains("layer.0.attention.self"), "{seed}: {root:#?}");
    }
}

#[test]
fn fan_outs_that_are_not_divided_are_caught() {
    for seed in 0..6 {
        let source = telling(Architecture::Bert, seed, any);
        let growth = preserving(&source, 2, seed);
        let counts = growth.layers[0].neurons.counts(source.model.sizes.intermediate);
        let Some(copied) = counts.iter().position(|count| *count > 1) else { continue };
        let expanded = edited(&growth.build(&source), |editor, model| {
            let down = mlp_of(model, 0).down.weight.clone();
            editor.edit(&down, |w| w.column_mut(copied).mapv_inplace(|v| 2.0 * v)).unwrap();
        });
        let found = lossy(&source, &expanded, &format!("{seed}"));
        assert_eq!(found.certificate.failures[0].place, "layer 0 MLP");
    }
}
