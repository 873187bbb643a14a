//! Linear layers: the one primitive.
//!
//! `W_T E_in = E_out W_S` says that the expanded layer maps E_in x to E_out (W_S x) for every x.
//! All its solutions are `W_T = E_out W_S L + Z (I − E_in L)`, where `L E_in = I` and Z is
//! arbitrary: block sums, unequal shares of copies and arbitrary residue columns (LEMON, sections 3
//! and 4) are instances. With Z random, copies get different weights, and training tells them
//! apart.

use super::Free;
use super::maps::{Entry, Map, Share};
use super::memory;
use super::random::{Random, root_mean_square};
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
    let mut expanded = memory::zeros(rows.len(), columns.len())?;
    if let Some(share) = share(duty, free) {
        let split = columns.split(share);
        let mean = rows.has_means().then(|| rows.mean_row(weight) * rows.scale());
        for (entry, row) in rows.entries().iter().zip(expanded.outer_iter_mut()) {
            match (entry, &mean) {
                (Entry::Copy(j), _) if rows.scale() == 1.0 => split.add(weight.row(*j), row),
                (Entry::Copy(j), _) => split.add((&weight.row(*j) * rows.scale()).view(), row),
                (Entry::Mean, Some(mean)) => split.add(mean.view(), row),
                (Entry::Mean, None) | (Entry::Zero, _) => {}
            }
        }
    }
    if free == Free::Projection && !matches!(duty, Duty::Nothing | Duty::SameRows) {
        let size = FREE_SHARE * root_mean_square(weight) * (rows.scale() / columns.scale()).abs();
        let split = columns.split(Share::Equal);
        for (entry, mut row) in rows.entries().iter().zip(expanded.outer_iter_mut()) {
            match entry {
                Entry::Copy(_) => {
                    let mut numbers = random.vector(columns.len(), size);
                    split.hide(&mut numbers);
                    row += &numbers;
                }
                Entry::Zero if duty == Duty::SameOrAnything => {
                    row.assign(&random.vector(columns.len(), size));
                }
                Entry::Zero | Entry::Mean => {}
            }
        }
    }
    Ok(expanded)
}

/// How copies share what the source reads; `None` where nothing of it remains.
fn share(duty: Duty, free: Free) -> Option<Share> {
    match (duty, free) {
        (Duty::Nothing, _) => None,
        (Duty::Cancel, Free::Equal) => Some(Share::Opposite),
        (Duty::Cancel, Free::Projection | Free::Zero) => None,
        (_, Free::Zero) => Some(Share::First),
        (_, Free::Projection | Free::Equal) => Some(Share::Equal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: [Free; 3] = [Free::Projection, Free::Equal, Free::Zero];

    fn dense(map: &Map) -> Array2<f64> {
        map.expand_rows(&Array2::eye(map.sources()))
    }

    fn weight(rows: usize, columns: usize) -> Array2<f64> {
        let numbers = Random::new(1, "source", 0).vector(rows * columns, 1.0);
        numbers.into_shape_with_order((rows, columns)).unwrap()
    }

    fn make(rows: &Map, columns: &Map, duty: Duty, free: Free) -> Array2<f64> {
        let weight = weight(rows.sources(), columns.sources());
        expand(&weight, (rows, columns), duty, free, &mut Random::new(0, "w", 0)).unwrap()
    }

    fn pairs() -> Vec<(Map, Map)> {
        let outs = [Map::average(4, 11).scaled(0.8), Map::zero(4, 9), Map::circular(4, 6)];
        let ins = [
            Map::zero(3, 8).scaled(0.5),
            Map::circular(3, 7),
            Map::identity(3),
            Map::average(3, 8).scaled(2.0),
        ];
        outs.iter().flat_map(|o| ins.iter().map(move |i| (o.clone(), i.clone()))).collect()
    }

    #[test]
    fn the_expanded_matrix_maps_the_image_as_the_source_does() {
        for (rows, columns) in pairs() {
            for free in FREE {
                let expanded = make(&rows, &columns, Duty::Same, free);
                let wanted = rows.expand_rows(&weight(4, 3));
                let error = expanded.dot(&dense(&columns)) - wanted;
                assert!(error.iter().all(|e| e.abs() < 1e-12), "{rows:?} {columns:?} {free:?}");
            }
        }
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
