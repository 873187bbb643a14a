//! Pairs of residual convolutional networks for tests.

use super::{ConvCase, ConvPair, ConvTargetCase};
use crate::certify::{Certificate, certify_convnets};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::expand::expand_convnet;
use crate::forward::{Weights, run_convnet};
use crate::model::convolutional::{ConvNet, describe_convnet};
use crate::testing::random::generator;
use ndarray::{Array1, Array3};

/// A source, its expansion, and what reproduces them.
pub struct Networks {
    /// What the source is made from.
    pub source_case: ConvCase,
    /// What it is expanded to.
    pub target_case: ConvTargetCase,
    /// The source.
    pub source: Checkpoint,
    /// What its tensors mean.
    pub source_net: ConvNet,
    /// The expansion.
    pub expanded: Checkpoint,
    /// What its tensors mean.
    pub expanded_net: ConvNet,
}

impl Networks {
    /// A random pair; `adjust` may change the source before the target is drawn.
    ///
    /// # Errors
    /// If the expansion is refused, or `adjust` made the source no legal case; the message holds
    /// both cases.
    pub fn random(seed: u64, adjust: impl Fn(&mut ConvCase)) -> Result<Networks> {
        let mut rng = generator(seed);
        let mut source_case = ConvCase::random(&mut rng);
        adjust(&mut source_case);
        let target_case = ConvTargetCase::random(&source_case, &mut rng);
        let source = source_case.build()?;
        let source_net = describe_convnet(&source)?;
        let (target, options) = target_case.request();
        let expanded = expand_convnet(&source, &source_net, &target, &options).map_err(|e| {
            Error::new(e.class(), format!("{e}\nseed {seed}: {source_case:?}\n{target_case:?}"))
        })?;
        let expanded_net = describe_convnet(&expanded)?;
        Ok(Networks { source_case, target_case, source, source_net, expanded, expanded_net })
    }

    /// Both networks, for a mutant to change.
    pub fn pair(&self) -> ConvPair<'_> {
        let Networks { source_net, expanded, expanded_net, .. } = self;
        ConvPair { source_net, expanded, expanded_net }
    }

    /// Holds `expanded` against the source.
    ///
    /// # Panics
    /// If a tensor cannot be read.
    pub fn certificate(&self, expanded: &Checkpoint, net: &ConvNet) -> Certificate {
        certify_convnets((&self.source, &self.source_net), (expanded, net))
            .unwrap_or_else(|e| panic!("{e}\n{}", self.replay()))
    }

    /// Both cases as JSON.
    pub fn replay(&self) -> String {
        let show = |value: serde_json::Result<String>| value.unwrap_or_else(|e| e.to_string());
        let source = show(serde_json::to_string(&self.source_case));
        format!("{source}\n{}", show(serde_json::to_string(&self.target_case)))
    }
}

/// The logits for each image, in f64.
///
/// # Panics
/// If the network cannot be run: see [`run_convnet`].
pub fn logits(checkpoint: &Checkpoint, net: &ConvNet, images: &[Array3<f64>]) -> Vec<Array1<f64>> {
    let weights = Weights::new(checkpoint);
    let run = |image| run_convnet(&weights, net, image).unwrap_or_else(|e| panic!("{e}"));
    images.iter().map(run).collect()
}

/// The largest difference of two runs over the spread of the first.
pub fn apart(one: &[Array1<f64>], other: &[Array1<f64>]) -> f64 {
    let numbers = || one.iter().flatten().zip(other.iter().flatten());
    let (low, high) = numbers().fold((f64::MAX, f64::MIN), |(l, h), (a, _)| (l.min(*a), h.max(*a)));
    let spread = (high - low).max(high.abs()).max(low.abs()).max(f64::MIN_POSITIVE);
    numbers().map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / spread
}
