//! Mixture of experts: every expert m-fold, and m times as many of them active.
//!
//! Equal router rows give the copies of an expert equal logits, so that the copies of the active
//! experts are the active ones, each with 1/m of the expert's weight: m copies that each compute the
//! whole expert sum to what it wrote. Shares of that may differ between copies, so that training
//! tells them apart, as long as they sum to m. (An extension of LEMON's section 4.2.)

use super::Free;
use super::linear::Duty;
use super::mlp;
use super::plan::{Job, Ports, linear_jobs};
use super::rules::Map;
use crate::error::{Error, Result};
use crate::model::Experts;
use std::sync::Arc;

/// Expands a mixture of experts between `ports`; `duty` is that of its output.
///
/// # Errors
/// If the experts, or those active, are not multiplied evenly, or fan-outs are to cancel and some
/// neuron has no second copy.
pub(super) fn jobs(
    source: &Experts,
    expanded: &Experts,
    ports: &Ports,
    duty: Duty,
    free: Free,
) -> Result<Vec<Job>> {
    let (from, to) = (source.experts.len(), expanded.experts.len());
    let copies = to / from;
    if to != copies * from || expanded.active != copies * source.active {
        return Err(Error::refused(format!(
            "{from} experts of which {} are active cannot become {to} of which {} are: both must \
             be multiplied alike",
            source.active, expanded.active
        )));
    }
    let rows = Ports { read: ports.read.clone(), write: Arc::new(Map::circular(from, to)) };
    let mut jobs = linear_jobs(&source.router, &expanded.router, &rows, Duty::SameRows);
    for (place, expert) in expanded.experts.iter().enumerate() {
        let share = if free == Free::Projection { share(place / from, copies) } else { 1.0 };
        jobs.extend(mlp::jobs(&source.experts[place % from], expert, ports, duty, share)?);
    }
    Ok(jobs)
}

/// What the copy number `copy` of `copies` takes: pairs of copies take 1 + δ and 1 − δ, each pair
/// with a δ of its own, at most ½; the one left over takes 1.
fn share(copy: usize, copies: usize) -> f64 {
    let pairs = copies / 2;
    if copy / 2 == pairs {
        return 1.0;
    }
    let delta = (copy / 2 + 1) as f64 / (2 * (pairs + 1)) as f64;
    if copy.is_multiple_of(2) { 1.0 + delta } else { 1.0 - delta }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_of_copies_sum_to_their_number_and_differ() {
        for copies in 1..=9 {
            let shares: Vec<f64> = (0..copies).map(|copy| share(copy, copies)).collect();
            assert!((shares.iter().sum::<f64>() - copies as f64).abs() < 1e-14, "{shares:?}");
            for (place, one) in shares.iter().enumerate() {
                assert!(*one >= 0.5 && !shares[..place].contains(one), "{shares:?}");
            }
        }
    }
}
