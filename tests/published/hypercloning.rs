//! HyperCloning: *Scaling Smart: Accelerating Large Language Model Pre-training with Small Model
//! Initialization* (Samragh et al., 2024, arXiv 2409.12903). Every matrix is tiled n × n and
//! divided by n (section 3.2, symmetric); in the noisy variant each tile of a row gets a noise that
//! sums to zero over the tiles. Norms and embeddings are repeated; a tied head is divided by n.

use crate::axis::Axis;
use crate::grow::{Described, Growth};
use crate::judge::{ALL, any, edited, lossless, lossy, never_lossless, source, telling, told};
use lemon_check::model::{Lens, Model, Op, Step};
use lemon_check::testing::random::{Draw, generator};
use lemon_check::testing::{Architecture, Editor};

fn cloned(source: &Described, times: usize, seed: u64) -> Growth {
    let mut growth = Growth::none(&source.model, seed);
    let sizes = &source.model.sizes;
    growth.hidden = Axis::tiled(sizes.hidden, times);
    for layer in &mut growth.layers {
        layer.neurons = Axis::tiled(sizes.intermediate, times);
        layer.heads = Axis::tiled(sizes.heads, times);
        layer.kv_heads = Axis::tiled(sizes.kv_heads, times);
    }
    growth
}

/// Every matrix whose input is cloned.
fn cloned_inputs(model: &Model) -> Vec<Lens> {
    let ops = model.layers.iter().flatten().flat_map(|s| &s.branches).map(|branch| &branch.op);
    let inside = ops.flat_map(Op::linears).map(|linear| linear.weight.clone());
    let steps = model.outputs.iter().flat_map(|output| &output.steps);
    let heads = steps.filter_map(|step| match step {
        Step::Linear(linear) => Some(linear.weight.clone()),
        _ => None,
    });
    let tied = |lens: &Lens| model.embedding.tables.iter().any(|table| table.lens == *lens);
    inside.chain(heads.filter(|lens| !tied(lens))).collect()
}

/// Adds noise η to the first tile of every row and −η to the last. All rows of one source row get
/// their own.
fn noise(editor: &mut Editor, model: &Model, times: usize, keeps: f64, seed: u64) {
    let mut rng = generator(seed);
    for lens in cloned_inputs(model) {
        let tile = lens.cols() / times;
        editor
            .edit(&lens, |w| {
                for row in 0..w.nrows() {
                    for column in 0..tile {
                        let eta = 0.1 * rng.normal();
                        w[[row, column]] += eta;
                        w[[row, column + (times - 1) * tile]] -= keeps * eta;
                    }
                }
            })
            .unwrap();
    }
}

#[test]
fn cloned_weights_are_lossless() {
    for architecture in ALL {
        for seed in 0..12 {
            let source = source(architecture, seed, any);
            let growth = cloned(&source, 2 + (seed % 2) as usize, seed);
            let what = format!("{architecture:?} {seed}");
            let found = lossless(&source, &growth.build(&source), &growth.hidden, &what);
            let (from, to) = (source.model.sizes.hidden, growth.hidden.len());
            let times = to / from;
            let copied =
                format!("{from} → {to}: every channel copied {times} times, read in equal");
            told(&found, "hidden", &copied);
            let equal = |what| format!("{times} copies each, {what} split in equal shares");
            told(&found, "neurons", &equal("fan-outs"));
            told(&found, "heads", &equal("outputs"));
        }
    }
}

#[test]
fn noise_that_cancels_is_lossless() {
    for architecture in ALL {
        for seed in 0..12 {
            let source = source(architecture, seed, any);
            let times = 2 + (seed % 2) as usize;
            let growth = cloned(&source, times, seed);
            let clean = growth.build(&source);
            let expanded = edited(&clean, |editor, model| noise(editor, model, times, 1.0, seed));
            let what = format!("{architecture:?} {seed}");
            let found = lossless(&source, &expanded, &growth.hidden, &what);
            told(&found, "hidden", &format!("every channel copied {times} times, read in unequal"));
            told(&found, "neurons", &format!("{times} copies each, fan-outs split unequally"));
            told(&found, "heads", &format!("{times} copies each, outputs split unequally"));
        }
    }
}

#[test]
fn noise_that_does_not_cancel_is_caught() {
    for architecture in ALL {
        for seed in 0..6 {
            let what = format!("{architecture:?} {seed}");
            let noisy = |source: &Described| {
                let clean = cloned(source, 2, seed).build(source);
                edited(&clean, |editor, model| noise(editor, model, 2, 0.9, seed))
            };
            let hidden = source(architecture, seed, any);
            never_lossless(&hidden, &noisy(&hidden), &what);
            let source = telling(architecture, seed, any);
            lossy(&source, &noisy(&source), &what);
        }
    }
}

#[test]
fn a_tied_head_that_is_not_divided_is_caught() {
    let tied = |model: &Model| {
        let head = model.outputs[0].steps.last();
        let table = &model.embedding.tables[0].lens;
        matches!(head, Some(Step::Linear(linear)) if linear.weight == *table)
    };
    for architecture in [Architecture::Gpt2, Architecture::Bert, Architecture::Llama] {
        let source = telling(architecture, 0, tied);
        let expanded = edited(&cloned(&source, 2, 0).build(&source), |editor, model| {
            let norms = model.outputs[0].steps.iter().filter_map(|step| match step {
                Step::Norm(norm) => Some(norm),
                _ => None,
            });
            for lens in norms.flat_map(|norm| norm.lenses()) {
                editor.edit(lens, |v| v.mapv_inplace(|x| 2.0 * x)).unwrap();
            }
        });
        let found = lossy(&source, &expanded, &format!("{architecture:?}"));
        assert_eq!(found.certificate.failures[0].place, "logits");
    }
}
