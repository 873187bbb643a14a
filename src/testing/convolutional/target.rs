//! Random legal targets of an expansion.

use super::ConvCase;
use crate::expand::{ConvTarget, Options};
use crate::testing::FreeParts;
use crate::testing::random::Draw;
use serde::{Deserialize, Serialize};

/// Everything that reproduces one expansion of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvTargetCase {
    /// Channels of the stem.
    pub stem: usize,
    /// Channels of each stage.
    pub stages: Vec<usize>,
    /// Blocks of each stage.
    pub blocks: Vec<usize>,
    /// How the free parts are filled.
    pub free: FreeParts,
    /// Seed of the free choices.
    pub seed: u64,
}

impl ConvTargetCase {
    /// A random target that can be reached without loss: any width, multiple or not.
    ///
    /// # Panics
    /// If the source is no legal case.
    pub fn random(source: &ConvCase, rng: &mut impl Draw) -> ConvTargetCase {
        let net = source.net().unwrap_or_else(|e| panic!("no legal case: {e}"));
        let wider = |size: usize, rng: &mut dyn rand::RngCore| match rng.below(4) {
            0 => size,
            1 => 2 * size,
            _ => size + rng.between(1, 2 * size + 1),
        };
        let stages: Vec<usize> = net.sizes.stages.iter().map(|s| wider(s.outer, rng)).collect();
        let deeper = |blocks: usize, rng: &mut dyn rand::RngCore| {
            if rng.chance(0.3) { blocks + rng.between(1, 2) } else { blocks }
        };
        let blocks = net.sizes.stages.iter().map(|s| deeper(s.blocks, rng)).collect();
        let mut stem = wider(net.sizes.stem, rng);
        let first = &net.stages[0][0];
        match &first.shortcut {
            None => stem = stages[0],
            // It stays a projection only between different widths.
            Some(shortcut) if shortcut.stride == 1 && stem == stages[0] => stem += 1,
            Some(_) => {}
        }
        let free = rng.pick(&[
            FreeParts::Projection,
            FreeParts::Projection,
            FreeParts::Equal,
            FreeParts::Zero,
        ]);
        ConvTargetCase { stem, stages, blocks, free, seed: rng.next_u64() >> 11 }
    }

    /// The request to [`crate::expand::expand_convnet`].
    pub fn request(&self) -> (ConvTarget, Options) {
        let target = ConvTarget {
            stem: Some(self.stem),
            stages: Some(self.stages.clone()),
            blocks: Some(self.blocks.clone()),
        };
        (target, Options { free: self.free.into(), seed: self.seed, ..Options::default() })
    }
}
