//! Net2Net: *Accelerating Learning via Knowledge Transfer* (Chen, Goodfellow, Shlens; ICLR 2016,
//! arXiv 1511.05641), Net2WiderNet: the first units stay, each further one is a copy of a unit
//! drawn at random, and outgoing weights are divided by the number of copies (equations 4 to 6).

use crate::axis::Axis;
use crate::grow::{Described, Growth};
use crate::judge::{ALL, any, edited, lossless, lossy, mlp_of, source, telling, told};
use lemon_check::model::Model;
use lemon_check::testing::Architecture;
use lemon_check::testing::random::{Draw, generator};

const EQUAL: &str = "split in equal shares (as Net2Net): copies stay copies in training";

fn wider(source: &Described, seed: u64) -> Growth {
    let mut rng = generator(seed);
    let mut growth = Growth::none(&source.model, seed);
    let neurons = source.model.sizes.intermediate;
    let grown = neurons + 1 + rng.below(2 * neurons);
    for layer in &mut growth.layers {
        layer.neurons = Axis::drawn(neurons, grown, &mut rng);
    }
    growth
}

#[test]
fn copies_of_random_neurons_are_lossless() {
    for architecture in ALL {
        for seed in 0..12 {
            let source = source(architecture, seed, any);
            let growth = wider(&source, seed);
            let expanded = growth.build(&source);
            let what = format!("{architecture:?} {seed}");
            let found = lossless(&source, &expanded, &growth.hidden, &what);
            told(&found, "neurons", &format!("fan-outs {EQUAL}"));
            told(&found, "heads", "as they are");
        }
    }
}

#[test]
fn copies_of_random_neurons_are_told_with_their_numbers() {
    let source = source(Architecture::Gpt2, 0, |model| model.sizes.intermediate == 8);
    let mut growth = Growth::none(&source.model, 0);
    let drawn = [0, 1, 2, 3, 4, 5, 6, 7, 2, 2, 5].map(Some).to_vec();
    growth.layers.iter_mut().for_each(|layer| layer.neurons.of = drawn.clone());
    let found = lossless(&source, &growth.build(&source), &growth.hidden, "eight neurons");
    told(&found, "neurons", &format!("8 → 11: 1 to 3 copies each, fan-outs {EQUAL}"));
}

#[test]
fn copies_of_random_query_heads_are_lossless() {
    // Where every query head reads the one key/value head, and heads may be added by themselves.
    let one_group = |model: &Model| model.sizes.kv_heads == 1;
    for seed in 0..12 {
        let source = source(Architecture::Llama, seed, one_group);
        let mut rng = generator(seed);
        let mut growth = Growth::none(&source.model, seed);
        let heads = source.model.sizes.heads;
        let grown = heads + 1 + rng.below(heads);
        for layer in &mut growth.layers {
            layer.heads = Axis::drawn(heads, grown, &mut rng);
        }
        let expanded = growth.build(&source);
        let found = lossless(&source, &expanded, &growth.hidden, &format!("{seed}"));
        told(&found, "heads", &format!("outputs {EQUAL}"));
    }
}

#[test]
fn copies_of_random_channels_are_caught_where_a_norm_reads_them() {
    for architecture in ALL {
        for seed in 0..6 {
            let source = telling(architecture, seed, |model| model.sizes.kv_heads < 4);
            let sizes = source.model.sizes.clone();
            let mut growth = Growth::none(&source.model, seed);
            growth.hidden = Axis::drawn(sizes.hidden, 2 * sizes.hidden, &mut generator(seed));
            let counts = growth.hidden.counts(sizes.hidden);
            if counts.iter().all(|count| *count == counts[0]) {
                continue;
            }
            if architecture != Architecture::Llama {
                // As many heads as the wider model needs.
                growth.double_heads(sizes.heads);
            }
            let expanded = growth.build(&source);
            lossy(&source, &expanded, &format!("{architecture:?} {seed}"));
        }
    }
}

#[test]
fn copies_whose_outgoing_weights_are_not_divided_are_caught() {
    for architecture in ALL {
        let source = telling(architecture, 3, |model| model.sizes.layers > 1);
        let growth = wider(&source, 3);
        let counts = growth.layers[1].neurons.counts(source.model.sizes.intermediate);
        let copied = counts.iter().position(|count| *count > 1).unwrap();
        let expanded = edited(&growth.build(&source), |editor, model| {
            let down = mlp_of(model, 1).down.weight.clone();
            editor.edit(&down, |w| w.column_mut(copied).mapv_inplace(|v| 2.0 * v)).unwrap();
        });
        let found = lossy(&source, &expanded, &format!("{architecture:?}"));
        assert_eq!(
            found.certificate.failures[0].tensor,
            mlp_of(&expanded.model, 1).down.weight.name()
        );
    }
}
