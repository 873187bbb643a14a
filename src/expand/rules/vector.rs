//! Vectors: biases, gains and factors.

use super::{Entry, Map};
use crate::error::{Error, Result};
use ndarray::Array2;

/// Expands `offset + stored`, with `stored` `[source, 1]`, by `map` to `[expanded, 1]`, and returns
/// what is then stored, which `offset` is added to again (Gemma's norms: γ = 1 + w). Coordinates
/// that the map leaves zero become `residue` of their index.
///
/// Lossless, because `b_T = E b_S` adds to E x what E makes of x + b_S; and γ copied multiplies
/// copies alike (LEMON, section 3, vector expansion). The residue must be zero if anything reads
/// it.
///
/// # Errors
/// If `stored` is no column of as many numbers as the map has source coordinates.
pub fn vector(
    stored: &Array2<f64>,
    map: &Map,
    offset: f64,
    mut residue: impl FnMut(usize) -> f64,
) -> Result<Array2<f64>> {
    if stored.dim() != (map.sources(), 1) {
        return Err(Error::bad_input(format!(
            "a vector of shape {:?} does not fit a map of {} coordinates",
            stored.dim(),
            map.sources()
        )));
    }
    // E (stored + offset) - offset, without the rounding of a sum that hides a small number: where
    // E copies, the same number comes back.
    let ones = Array2::ones(stored.dim());
    let mut expanded = map.expand_rows(stored) + (map.expand_rows(&ones) - 1.0) * offset;
    for ((index, entry), slot) in map.entries().iter().enumerate().zip(&mut expanded) {
        if *entry == Entry::Zero {
            *slot = residue(index) - offset;
        }
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_vector_is_what_the_map_says_and_the_residue_what_is_asked_for() {
        let stored = array![[2.0], [4.0]];
        let mean = vector(&stored, &Map::average(2, 3), 0.0, |_| 9.0).unwrap();
        assert_eq!(mean, array![[2.0], [4.0], [3.0]]);
        let free = vector(&stored, &Map::zero(2, 3), 0.0, |index| index as f64 + 5.0).unwrap();
        assert_eq!(free, array![[2.0], [4.0], [7.0]]);
    }

    #[test]
    fn an_offset_is_part_of_what_is_expanded() {
        let map = Map::zero(2, 3).scaled(0.5);
        let stored = vector(&array![[1.0], [3.0]], &map, 1.0, |_| 1.0).unwrap();
        assert_eq!(stored, array![[0.0], [1.0], [0.0]]);
        let small = array![[1e-20], [3.0]];
        assert_eq!(vector(&small, &Map::zero(2, 2), 1.0, |_| 1.0).unwrap(), small);
    }

    #[test]
    fn a_vector_of_another_length_is_an_error() {
        assert!(vector(&array![[1.0]], &Map::zero(2, 3), 0.0, |_| 0.0).is_err());
        assert!(vector(&array![[1.0, 2.0]], &Map::zero(2, 3), 0.0, |_| 0.0).is_err());
    }
}
