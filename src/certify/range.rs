//! Numbers that the sums of squares formed here cannot hold.
//!
//! Bounds are carried as variances, and products of them as products of squares: in float64, which
//! goes from 1e-308 to 1e308, four factors of a number are a number only within the limits below.
//! Beyond them a live number could be taken for zero, or a bound for infinite. No coarser format
//! reaches them.

use super::side::Side;
use super::squares::Ledger;
use crate::checkpoint::Dtype;
use rayon::prelude::*;

/// Sizes whose fourth power, times the square of float64's unit, is a number.
const LIMITS: [f64; 2] = [1e-67, 1e75];

/// Books what is unknown because a weight is out of range: the first such tensor of the model.
pub(super) fn judgeable(side: &Side, which: &str, ledger: &mut Ledger) {
    let lenses = side.model.lenses();
    let beyond = lenses.par_iter().find_map_first(|lens| {
        let tensor = side.checkpoint.tensor(lens.name()).ok()?;
        (tensor.dtype == Some(Dtype::F64)).then_some(())?;
        let numbers = (0..tensor.len()).map(|at| Dtype::F64.get(tensor.bytes(), at));
        let is_beyond = |size: &f64| *size != 0.0 && (*size < LIMITS[0] || *size > LIMITS[1]);
        Some((lens.name(), numbers.map(f64::abs).find(is_beyond)?))
    });
    if let Some((name, size)) = beyond {
        let [least, most] = LIMITS;
        let reason = format!(
            "it holds {size:e}: numbers below {least:e} or above {most:e} have no squares to \
             reckon with; multiply the tensor, and what undoes it, by a power of two"
        );
        ledger.unknown(format!("{which} tensor `{name}`"), reason);
    }
}
