//! How small the variances are that norms divide by: where ε matters.

use super::{Input, Weights, run_weights};
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::Model;
use std::collections::BTreeMap;
use std::sync::Mutex;

/// The smallest variance (RMSNorm: mean square) that the norms of each ε have met.
#[derive(Debug, Default)]
pub(super) struct Smallest(Mutex<BTreeMap<u64, f64>>);

impl Smallest {
    /// A norm with `eps` has met this variance.
    pub fn met(&self, eps: f64, variance: f64) {
        let mut smallest = self.0.lock().expect("nothing panics while it is locked");
        let known = smallest.entry(eps.to_bits()).or_insert(f64::INFINITY);
        *known = known.min(variance);
    }
}

/// For each ε that the norms of `model` have, the smallest variance (RMSNorm: mean square) that any
/// of these norms meets on `inputs`, computed in f64; in squared units of what the norm reads.
///
/// # Errors
/// As [`super::run`].
pub fn smallest_variances(
    checkpoint: &Checkpoint,
    model: &Model,
    inputs: &[Input],
) -> Result<Vec<(f64, f64)>> {
    let smallest = Smallest::default();
    run_weights::<f64>(&Weights::new(checkpoint).watched(&smallest), model, inputs)?;
    let found = smallest.0.into_inner().expect("nothing panics while it is locked");
    Ok(found.into_iter().map(|(eps, variance)| (f64::from_bits(eps), variance)).collect())
}
