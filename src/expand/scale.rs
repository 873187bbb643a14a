//! LayerScale: a factor for each channel behind a branch.
//!
//! The expanded branch must write diag(ls_T) W_T E_in = E diag(ls_S) W. Copies of a channel copy
//! its factor, so their rows of W_T are copies as ever. A residue channel must hold the mean of
//! ls_j·(row j of W) over all channels j: its factor is free, and its row is that mean divided by
//! it. (An extension of LEMON's section 4.1, which knows no LayerScale.)

use super::maps::Map;
use super::plan::{Job, Rule};
use super::vectors::Residue;
use crate::model::Lens;
use ndarray::Array2;
use std::sync::Arc;

/// Expands the factors, whose values are `gains` `[channels, 1]`, for a branch that ends in `write`:
/// returns the job and the map of what must be written in front of the factors.
pub(super) fn job(
    (source, expanded): (&Lens, &Lens),
    gains: &Array2<f64>,
    write: &Map,
) -> (Job, Map) {
    let residue = residue_factor(gains);
    let copies = Map::zero(write.sources(), write.len());
    let weights: Vec<f64> = gains.iter().map(|gain| gain / residue).collect();
    let rule =
        Rule::Vector { map: Arc::new(copies), residue: Residue::Exactly(residue), offset: 0.0 };
    (Job::new(source, expanded, rule), write.clone().weighted(weights))
}

/// A factor as large as the others, a power of two: then dividing by it is exact in every number
/// format, and the smallest of them (F16) holds it.
fn residue_factor(gains: &Array2<f64>) -> f64 {
    let size = super::random::root_mean_square(gains);
    if size > 0.0 { size.log2().round().clamp(-14.0, 14.0).exp2() } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expand::vectors;
    use crate::model::Dim;
    use ndarray::array;

    #[test]
    fn factors_times_what_is_written_are_the_expansion_of_both() {
        let gains = array![[1e-5], [-3e-5], [2e-6], [4e-5]];
        let written = array![[2.0], [-1.0], [0.5], [7.0]];
        let lens = |size| Lens::vector("ls", Dim::new(size, "hidden"));
        for write in [Map::average(4, 11).scaled(1.3), Map::zero(4, 6), Map::average(4, 8)] {
            let (job, before) = job((&lens(4), &lens(write.len())), &gains, &write);
            let Rule::Vector { map, residue, .. } = &job.rule else { panic!("a vector") };
            let factors = vectors::expand(&gains, map, *residue, 0.0, None);
            let got = before.expand_rows(&written) * factors;
            let error = got - write.expand_rows(&(&gains * &written));
            assert!(error.iter().all(|e| e.abs() < 1e-18), "{write:?}");
        }
    }

    #[test]
    fn the_free_factor_is_as_large_as_the_others_and_never_zero() {
        assert_eq!(residue_factor(&array![[1e-5], [1e-5]]), 2f64.powi(-14));
        assert_eq!(residue_factor(&array![[0.1], [-0.1]]), 0.125);
        assert_eq!(residue_factor(&array![[0.0]]), 1.0);
    }
}
