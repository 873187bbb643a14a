//! Vectors of the expanded model: what stands where the map leaves zero.
//!
//! The rule is [`super::rules::vector()`]. Coordinates that nothing reads are free.

use super::linear::FREE_SHARE;
use super::random::{Random, root_mean_square};
use super::rules::{Map, vector};
use crate::error::Result;
use ndarray::Array2;

/// What stands in the coordinates that the map leaves zero, `offset` included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Residue {
    /// Zero: the coordinate is read.
    Zero,
    /// Any number will do; without random numbers, this one.
    Any(f64),
}

/// Expands `offset + stored`, with `stored` `[source, 1]`, to `[expanded, 1]`, and returns what is
/// then stored. With `random`, free coordinates get numbers around the one in `residue`, as large
/// as the vector's.
///
/// # Errors
/// If the map is of another length.
pub(super) fn expand(
    stored: &Array2<f64>,
    map: &Map,
    residue: Residue,
    offset: f64,
    random: Option<&mut Random>,
) -> Result<Array2<f64>> {
    let (centre, random) = match residue {
        Residue::Zero => (0.0, None),
        Residue::Any(number) => (number, random),
    };
    let width = FREE_SHARE * root_mean_square(&(stored + offset)) * map.scale().abs();
    let mut number = random.map(|r| move || width * r.symmetric());
    vector(stored, map, offset, |_| centre + number.as_mut().map_or(0.0, |draw| draw()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_read_residue_is_exactly_what_the_map_says() {
        let expanded =
            expand(&array![[2.0], [4.0]], &Map::average(2, 3), Residue::Zero, 0.0, None).unwrap();
        assert_eq!(expanded, array![[2.0], [4.0], [3.0]]);
    }

    #[test]
    fn a_free_residue_is_random_only_if_asked() {
        let (vector, map) = (array![[2.0], [4.0]], Map::zero(2, 3));
        assert_eq!(expand(&vector, &map, Residue::Any(1.0), 0.0, None).unwrap()[[2, 0]], 1.0);
        let mut random = Random::new(0, "gamma", 0);
        let free = expand(&vector, &map, Residue::Any(1.0), 0.0, Some(&mut random)).unwrap();
        assert_ne!(free[[2, 0]], 1.0);
        assert_eq!(free.column(0).to_vec()[..2], [2.0, 4.0]);
    }
}
