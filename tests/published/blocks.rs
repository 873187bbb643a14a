//! Depth. LLaMA-Pro: *Progressive LLaMA with Block Expansion* (Wu et al., 2024, arXiv 2401.02415):
//! copied blocks whose output projections are zero, behind every group of blocks: lossless on a
//! Pre-LN stream. Not lossless are plain stacking (*Efficient Training of BERT by Progressively
//! Stacking*, Gong et al., ICML 2019) and depth up-scaling (SOLAR, Kim et al., 2023, arXiv
//! 2312.15166): two copies of the model, of which the first loses its last layers and the second
//! its first.

use crate::axis::Axis;
use crate::grow::{Described, Growth, Layer};
use crate::judge::{any, edited, lossless, lossy, never_lossless, source, telling, told};
use lemon_check::model::{Model, Op};
use lemon_check::testing::Architecture;
use ndarray::{Array2, Axis as Axis2};

const PRE_NORM: [Architecture; 4] =
    [Architecture::Gpt2, Architecture::Llama, Architecture::Vit, Architecture::VitTimm];

/// A copy of each layer behind it, which writes zero.
fn expanded_blocks(source: &Described, seed: u64) -> Growth {
    let mut growth = Growth::none(&source.model, seed);
    let copy = |layer: &Layer| Layer { silent: true, ..layer.clone() };
    growth.layers = growth.layers.iter().flat_map(|l| [l.clone(), copy(l)]).collect();
    growth
}

#[test]
fn block_expansion_is_lossless() {
    for architecture in PRE_NORM {
        for seed in 0..12 {
            let source = source(architecture, seed, any);
            let growth = expanded_blocks(&source, seed);
            let expanded = growth.build(&source);
            let what = format!("{architecture:?} {seed}");
            let found = lossless(&source, &expanded, &growth.hidden, &what);
            let layers = ["layer 1", "layers 1, 3", "layers 1, 3, 5"];
            let count = source.model.layers.len();
            if count <= layers.len() {
                let (all, new) = (2 * count, layers[count - 1]);
                let words =
                    format!("{count} → {all}: new layers write zero (block expansion): {new}");
                told(&found, "depth", &words);
            }
        }
    }
}

#[test]
fn blocks_whose_copies_cancel_are_lossless() {
    for seed in 0..12 {
        let source = source(Architecture::Llama, seed, |model| model.layers.len() == 1);
        let mut growth = Growth::none(&source.model, seed);
        let sizes = &source.model.sizes;
        let layer = &mut growth.layers[0];
        layer.neurons = Axis::tiled(sizes.intermediate, 2);
        layer.heads = Axis::tiled(sizes.heads, 2);
        layer.kv_heads = Axis::tiled(sizes.kv_heads, 2);
        growth.layers.push(growth.layers[0].clone());
        let expanded = edited(&growth.build(&source), |editor, model| {
            for op in model.layers[1].iter().map(|sublayer| &sublayer.branches[0].op) {
                let writer = op.writers()[0];
                let half = writer.weight.cols() / 2;
                let cancel = |w: &mut Array2<f64>| {
                    let (first, mut second) = w.view_mut().split_at(Axis2(1), half);
                    second.assign(&first.mapv(|v| -v));
                };
                editor.edit(&writer.weight, cancel).unwrap();
                if let Some(bias) = &writer.bias {
                    editor.edit(bias, |b| b.fill(0.0)).unwrap();
                }
            }
        });
        let found = lossless(&source, &expanded, &growth.hidden, &format!("{seed}"));
        let words = "1 → 2: new layers write what sums to zero (copies whose outputs cancel): ";
        told(&found, "depth", &format!("{words}layer 1"));
    }
}

#[test]
fn a_block_of_which_one_output_is_not_zero_is_caught() {
    for architecture in PRE_NORM {
        for seed in 0..6 {
            let source = telling(architecture, seed, any);
            let expanded =
                edited(&expanded_blocks(&source, seed).build(&source), |editor, model| {
                    let down = |layer: usize| match &model.layers[layer][1].branches[0].op {
                        Op::Mlp(mlp) => mlp.down.clone(),
                        _ => panic!("the second half of a layer"),
                    };
                    for (from, to) in down(0).lenses().zip(down(1).lenses()) {
                        editor.write(to, &editor.read(from).unwrap()).unwrap();
                    }
                });
            let found = lossy(&source, &expanded, &format!("{architecture:?} {seed}"));
            let root = &found.certificate.failures[0];
            assert_eq!(root.place, "layer 1 MLP", "{architecture:?} {seed}: {root:#?}");
        }
    }
}

fn stacked(source: &Described, drop: usize) -> Described {
    let mut growth = Growth::none(&source.model, 0);
    let count = growth.layers.len();
    let second: Vec<Layer> = growth.layers[drop..].to_vec();
    growth.layers.truncate(count - drop);
    growth.layers.extend(second);
    growth.build(source)
}

#[test]
fn plain_stacking_is_caught_in_the_first_layer_of_the_second_copy() {
    for architecture in PRE_NORM {
        for seed in 0..6 {
            let what = format!("{architecture:?} {seed}");
            let hidden = source(architecture, seed, any);
            never_lossless(&hidden, &stacked(&hidden, 0), &what);
            let source = telling(architecture, seed, any);
            let found = lossy(&source, &stacked(&source, 0), &what);
            let root = &found.certificate.failures[0];
            let seam = format!("layer {} attention", source.model.layers.len());
            assert_eq!(root.place, seam, "{architecture:?} {seed}: {root:#?}");
        }
    }
}

#[test]
fn depth_up_scaling_is_caught_at_the_seam() {
    for architecture in PRE_NORM {
        for seed in 0..6 {
            let source = telling(architecture, seed, |model: &Model| model.layers.len() == 3);
            let expanded = stacked(&source, 1);
            let found = lossy(&source, &expanded, &format!("{architecture:?} {seed}"));
            let root = &found.certificate.failures[0];
            assert_eq!(root.place, "layer 2 attention", "{architecture:?} {seed}: {root:#?}");
        }
    }
}

#[test]
fn stacking_behind_norms_that_write_the_stream_is_caught() {
    for seed in 0..6 {
        let source = telling(Architecture::Bert, seed, any);
        let found = lossy(&source, &stacked(&source, 0), &format!("{seed}"));
        let first = format!("layer {} attention", source.model.layers.len());
        assert_eq!(found.certificate.unknown[0].subject, first);
    }
}
