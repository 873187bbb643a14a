//! Linear layers of the expanded model: what each must compute, and with which free numbers.
//!
//! The rule is [`super::rules::linear()`] (LEMON, sections 3 and 4): block sums, unequal shares of
//! copies and arbitrary residue columns are instances of one equation.

use super::Free;
use super::memory;
use super::random::{Random, root_mean_square};
use super::rules::{Entry, Map, Share, cancelling, linear, opposite};
use crate::error::Result;
use ndarray::Array2;

/// Size of the free numbers as a fraction of the matrix's root mean square. Free numbers as large
/// as the weights amplify rounding from layer to layer; these stay below.
pub(super) const FREE_SHARE: f64 = 0.5;

/// What a linear layer of the expanded model must compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Duty {
    /// What the source's layer computes.
    Same,
    /// What the source's layer computes; rows that the map leaves zero may compute anything.
    SameOrAnything,
    /// What the source's layer computes, with copies of a row equal to the last bit: no free
    /// numbers.
    SameRows,
    /// Nothing, with all weights zero (new layer of type 1).
    Nothing,
    /// Nothing, because the fan-outs of copies cancel (new layer of type 2).
    Cancel,
}

/// Expands `weight` `[source out, source in]` to `[expanded out, expanded in]`.
///
/// Rows of zeros and means get no free numbers, so that they stay exactly that in every number
/// format, unless they may compute anything.
///
/// # Errors
/// If there is not enough memory.
pub(super) fn expand(
    weight: &Array2<f64>,
    (rows, columns): (&Map, &Map),
    duty: Duty,
    free: Free,
    random: &mut Random,
) -> Result<Array2<f64>> {
    let count = columns.len();
    let size = FREE_SHARE * root_mean_square(weight) * (rows.scale() / columns.scale()).abs();
    let mut expanded = match (duty, free) {
        (Duty::Nothing, _) | (Duty::Cancel, Free::Zero) => memory::zeros(rows.len(), count)?,
        (Duty::Cancel, Free::Equal) => opposite(weight, rows, columns)?,
        (Duty::Cancel, Free::Projection) => {
            cancelling(rows, columns, |_| Some(random.vector(count, size)))?
        }
        (_, Free::Zero) => linear(weight, rows, columns, Share::First, |_| None)?,
        (Duty::SameRows, _) | (_, Free::Equal) => {
            linear(weight, rows, columns, Share::Equal, |_| None)?
        }
        (Duty::Same | Duty::SameOrAnything, Free::Projection) => {
            let initial = |_| Some(random.vector(count, size));
            linear(weight, rows, columns, Share::Equal, initial)?
        }
    };
    if duty == Duty::SameOrAnything && free == Free::Projection {
        let pairs = rows.entries().iter().zip(expanded.outer_iter_mut());
        for (_, mut row) in pairs.filter(|(entry, _)| **entry == Entry::Zero) {
            row.assign(&random.vector(count, size));
        }
    }
    Ok(expanded)
}

#[cfg(test)]
mod tests {
    use super::super::rules::samples::{dense, pairs};
    use super::*;

    const FREE: [Free; 3] = [Free::Projection, Free::Equal, Free::Zero];

    fn weight(rows: usize, columns: usize) -> Array2<f64> {
        let numbers = Random::new(1, "source", 0).vector(rows * columns, 1.0);
        numbers.into_shape_with_order((rows, columns)).unwrap()
    }

    fn make(rows: &Map, columns: &Map, duty: Duty, free: Free) -> Array2<f64> {
        let weight = weight(rows.sources(), columns.sources());
        expand(&weight, (rows, columns), duty, free, &mut Random::new(0, "w", 0)).unwrap()
    }

    #[test]
    fn a_cancelling_matrix_maps_the_image_to_zero_and_is_not_zero() {
        for (rows, columns) in pairs() {
            if !columns.replicates() || columns.entries().contains(&Entry::Mean) {
                continue;
            }
            for free in FREE {
                let expanded = make(&rows, &columns, Duty::Cancel, free);
                let image = expanded.dot(&dense(&columns));
                assert!(image.iter().all(|e| e.abs() < 1e-12), "{rows:?} {columns:?} {free:?}");
                assert_eq!(free == Free::Zero, expanded.iter().all(|v| *v == 0.0));
            }
        }
    }

    #[test]
    fn copies_have_different_fan_outs_under_projection_and_equal_ones_otherwise() {
        let (rows, columns) = (Map::identity(4), Map::circular(3, 6));
        let expanded = make(&rows, &columns, Duty::Same, Free::Projection);
        assert!((0..3).all(|c| expanded.column(c) != expanded.column(c + 3)));
        let equal = make(&rows, &columns, Duty::Same, Free::Equal);
        assert!((0..3).all(|c| equal.column(c) == equal.column(c + 3)));
        let first = make(&rows, &columns, Duty::Same, Free::Zero);
        assert!((3..6).all(|c| first.column(c).iter().all(|v| *v == 0.0)));
    }

    #[test]
    fn rows_of_zeros_stay_exactly_zero_unless_they_may_be_anything() {
        let (rows, columns) = (Map::zero(4, 6), Map::circular(3, 6));
        let expanded = make(&rows, &columns, Duty::Same, Free::Projection);
        assert!(expanded.rows().into_iter().skip(4).all(|r| r.iter().all(|v| *v == 0.0)));
        let expanded = make(&rows, &columns, Duty::SameOrAnything, Free::Projection);
        assert!(expanded.rows().into_iter().skip(4).all(|r| r.iter().all(|v| *v != 0.0)));
    }

    #[test]
    fn copies_of_a_row_can_be_kept_equal() {
        let (rows, columns) = (Map::circular(4, 8), Map::circular(3, 7));
        for free in FREE {
            let expanded = make(&rows, &columns, Duty::SameRows, free);
            assert!((0..4).all(|r| expanded.row(r) == expanded.row(r + 4)), "{free:?}");
        }
        let expanded = make(&rows, &columns, Duty::Same, Free::Projection);
        assert!((0..4).all(|r| expanded.row(r) != expanded.row(r + 4)));
    }

    #[test]
    fn free_numbers_are_smaller_than_the_weights() {
        let (rows, columns) = (Map::identity(40), Map::circular(30, 60));
        let free = make(&rows, &columns, Duty::Same, Free::Projection)
            - make(&rows, &columns, Duty::Same, Free::Equal);
        assert!(root_mean_square(&free) < 0.6 * root_mean_square(&weight(40, 30)));
    }
}
