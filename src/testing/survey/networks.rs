//! One random ResNet, its expansion, and every change of it.

use super::{Judged, Tally, VISIBLE, changed, coarsest, shuffled};
use crate::checkpoint::Dtype;
use crate::error::Result;
use crate::model::Lens;
use crate::model::convolutional::{ConvNet, Convolution, describe_convnet};
use crate::testing::convolutional::networks::{Networks, apart, logits};
use crate::testing::convolutional::{CONV_MUTANTS, random_images};
use crate::testing::random::generator;
use std::collections::BTreeSet;

/// Judges the pair of this seed, and at most `changes` of those that apply to it.
pub(super) fn judge(changes: usize, seed: u64) -> Result<Tally> {
    let pair = Networks::random(seed, |_| ())?;
    let replay = || format!("seed {seed}, {}", pair.replay());
    let found = pair.certificate(&pair.expanded, &pair.expanded_net);
    let mut tally = Tally::default();
    tally.right(pair.source_case.dtype, (&pair.source, &pair.expanded), &found, &replay)?;
    // What one rounding of every weight does is measured for Transformers only.
    if coarsest(&pair.expanded) != Dtype::F64 {
        return Ok(tally);
    }
    let images = random_images(&pair.source_net, &mut generator(seed));
    let right = logits(&pair.expanded, &pair.expanded_net, &images);
    let between = apart(&logits(&pair.source, &pair.source_net, &images), &right);
    if between > VISIBLE {
        tally.notes.push(format!("a right expansion is {between:e} apart: {}", replay()));
    }
    let mut left = changes;
    for mutant in shuffled(CONV_MUTANTS, seed) {
        if left == 0 {
            break;
        }
        let Some(mutated) = mutant.apply(&pair.pair(), seed)? else { continue };
        left -= 1;
        let net = describe_convnet(&mutated.checkpoint)?;
        let found = pair.certificate(&mutated.checkpoint, &net);
        tally.count(Judged {
            name: mutant.name,
            intent: mutant.intent,
            apart: apart(&right, &logits(&mutated.checkpoint, &net, &images)),
            visible: VISIBLE,
            found: &found,
            pair: (&pair.source, &mutated.checkpoint),
            changed: &changed(&pair.expanded, &mutated.checkpoint, &mutated.subject),
            equations: &equations(&net),
            replay: &replay,
        })?;
    }
    Ok(tally)
}

/// The tensors of the stem, of each block, and of the head.
fn equations(net: &ConvNet) -> Vec<BTreeSet<&str>> {
    let blocks = net.stages.iter().flatten();
    let blocks =
        blocks.map(|block| tensors(block.convolutions.iter().chain(&block.shortcut).collect()));
    let head = net.head.lenses().map(Lens::name).collect();
    [tensors(vec![&net.stem]), head].into_iter().chain(blocks).collect()
}

fn tensors(convolutions: Vec<&Convolution>) -> BTreeSet<&str> {
    convolutions.into_iter().flat_map(Convolution::lenses).map(Lens::name).collect()
}
