//! Depth. LLaMA-Pro: *Progressive LLaMA with Block Expansion* (Wu et al., 2024, arXiv 2401.02415):
//! copied blocks whose output projections are zero, behind every group of blocks: lossless on a
//! Pre-LN stream. Not lossless are plain stacking (*Efficient Training of BERT by Progressively
//! Stacking*, Gong et al., ICML 2019) and depth up-scaling (SOLAR, Kim et al., 2023, arXiv
//! 2312.15166): two copies of the model, of which the first loses its last layers and the second
//! its first.

use crate::grow::{Described, Growth, Layer};
use crate::judge::{any, edited, lossless, lossy, source, telling, words};
use lemon_check::model::{Model, Op};
use lemon_check::testing::Architecture;

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
            lossless(&source, &expanded, &growth.hidden, &format!("{architecture:?} {seed}"));
        }
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
            let place = root.place.as_str();
            assert!(["layer 0 MLP", "layer 1 MLP"].contains(&place), "{seed}: {root:#?}");
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
            let source = telling(architecture, seed, any);
            let expanded = stacked(&source, 0);
            let found = lossy(&source, &expanded, &format!("{architecture:?} {seed}"));
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
        lossy(&source, &stacked(&source, 0), &format!("{seed}"));
    }
}
