//! Channels of the source's stream that cannot be told apart: copies, zeros and means in a source
//! that is an expansion itself.

use super::certificate::{Certificate, Failure, Reach};
use super::discover::{parts, sampled_rows};
use super::side::Side;
use crate::error::Result;
use crate::model::Embedding;
use ndarray::Array2;
use std::collections::BTreeSet;

/// Where channels of the source's stream cannot be told apart, one may have been taken for another.
pub(super) fn doubt(source: &Side, certificate: &mut Certificate) -> Result<()> {
    let failures = &mut certificate.failures;
    let of_channels = |failure: &&mut Failure| failure.reach != Reach::Epsilon;
    if failures.iter_mut().filter(of_channels).count() == 0 {
        return Ok(());
    }
    let encoder = source.model.encoder.as_deref().map(|encoder| &encoder.embedding);
    for embedding in encoder.into_iter().chain([&source.model.embedding]) {
        if has_twins(source, embedding)? {
            failures.iter_mut().filter(of_channels).for_each(|failure| failure.doubtful = true);
        }
    }
    Ok(())
}

/// Whether two channels of the source hold the same in every row that is looked at, as copies and
/// channels that hold zero or the mean do in a source that is an expansion itself. Then which of
/// them a channel is a copy of is open, and norms may have other weights for each.
fn has_twins(source: &Side, embedding: &Embedding) -> Result<bool> {
    let Some(parts) = parts(embedding, embedding) else { return Ok(false) };
    let rows = sampled_rows(source.checkpoint, source.checkpoint, &parts)?;
    let samples: Vec<&Array2<f64>> = rows.iter().flatten().map(|(rows, _)| rows).collect();
    let mut seen = BTreeSet::new();
    let held = |channel: usize| -> Vec<u64> {
        let numbers = samples.iter().flat_map(|rows| rows.column(channel));
        // Zeros of both signs are one.
        numbers.map(|number| (number + 0.0).to_bits()).collect()
    };
    Ok((0..source.model.sizes.hidden).any(|channel| !seen.insert(held(channel))))
}
