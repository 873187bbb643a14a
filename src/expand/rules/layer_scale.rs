//! LayerScale: a factor for each channel behind a branch.

use super::{Map, vector};
use crate::error::Result;
use ndarray::Array2;

/// What becomes of LayerScale.
#[derive(Clone, Debug)]
pub struct LayerScale {
    /// The factors, `[expanded, 1]`.
    pub factors: Array2<f64>,
    /// The map of what must be written in front of them: that of the stream, with means in which
    /// each channel has a weight.
    pub write: Map,
}

/// Expands the factors `gains` `[channels, 1]` of a branch that writes a stream with the map
/// `stream`.
///
/// The expanded branch must write diag(ls_T) W_T E_in = E diag(ls_S) W. Copies of a channel copy its
/// factor, so their rows of W_T are copies as ever. A residue channel of means must get the mean of
/// ls_j·(row j of W) over all channels j: its factor is free, so it is a power of two as large as the
/// others, by which dividing is exact, and its row that mean divided by it. (An extension of LEMON's
/// section 4.1, which knows no LayerScale.)
///
/// # Errors
/// If `gains` is no column of as many numbers as the map has source coordinates.
pub fn layer_scale(gains: &Array2<f64>, stream: &Map) -> Result<LayerScale> {
    let residue = residue_factor(gains);
    let copies = Map::zero(stream.sources(), stream.len());
    let factors = vector(gains, &copies, 0.0, |_| residue)?;
    let write = stream.clone().weighted(gains.iter().map(|gain| gain / residue).collect());
    Ok(LayerScale { factors, write })
}

/// A power of two; the smallest number format (F16) holds it.
fn residue_factor(gains: &Array2<f64>) -> f64 {
    let squares: f64 = gains.iter().map(|gain| gain * gain).sum();
    let size = (squares / gains.len().max(1) as f64).sqrt();
    if size > 0.0 { size.log2().round().clamp(-14.0, 14.0).exp2() } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn factors_times_what_is_written_are_the_expansion_of_both() {
        let gains = array![[1e-5], [-3e-5], [2e-6], [4e-5]];
        let written = array![[2.0], [-1.0], [0.5], [7.0]];
        for stream in [Map::average(4, 11).scaled(1.3), Map::zero(4, 6), Map::average(4, 8)] {
            let scale = layer_scale(&gains, &stream).unwrap();
            let got = scale.write.expand_rows(&written) * scale.factors;
            let error = got - stream.expand_rows(&(&gains * &written));
            assert!(error.iter().all(|e| e.abs() < 1e-18), "{stream:?}");
        }
    }

    #[test]
    fn the_free_factor_is_as_large_as_the_others_and_never_zero() {
        assert_eq!(residue_factor(&array![[1e-5], [1e-5]]), 2f64.powi(-14));
        assert_eq!(residue_factor(&array![[0.1], [-0.1]]), 0.125);
        assert_eq!(residue_factor(&array![[0.0]]), 1.0);
    }
}
