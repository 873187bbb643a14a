//! Linear layers: the one primitive.
//!
//! `W_T E_in = E_out W_S` says that the expanded layer maps E_in x to E_out (W_S x) for every x.
//! All its solutions are `W_T = E_out W_S L + Z (I − E_in L)`, where `L E_in = I` and Z is
//! arbitrary: block sums, unequal shares of copies and arbitrary residue columns (LEMON, sections 3
//! and 4) are instances. With Z random, copies get different weights, and training tells them
//! apart.

use super::{Entry, Map, Share};
use crate::error::{Error, Result};
use crate::expand::memory;
use ndarray::{Array1, Array2};

/// Expands `weight` `[source out, source in]` to `[expanded out, expanded in]`, between the maps of
/// what it writes (`rows`) and of what it reads (`columns`).
///
/// `initial` gives row after row of Z `[expanded out, expanded in]`, a random initialisation of the
/// large layer, for the rows that are copies; `None` stands for zeros. With [`Share::Equal`] it is
/// projected onto the lossless matrices (for zero-, circular- and average-expanded inputs alike);
/// with [`Share::Last`], the last copy's columns are the complement of the others, which stay as
/// they are. Rows of zeros and means get nothing of it, so that they stay exactly that in every
/// number format. The result is deterministic given Z.
///
/// Lossless, because Z (I − E_in L) E_in = 0, so that W_T E_in = E_out W_S L E_in = E_out W_S.
///
/// # Errors
/// If `weight` or a row of Z does not fit the maps, `share` is [`Share::Opposite`], a channel that
/// is read has no copy, or there is not enough memory.
pub fn linear(
    weight: &Array2<f64>,
    rows: &Map,
    columns: &Map,
    share: Share,
    initial: impl FnMut(usize) -> Option<Array1<f64>>,
) -> Result<Array2<f64>> {
    if share == Share::Opposite || !columns.covers() {
        let problem = "the shares of copies do not sum to what they share out";
        return Err(Error::bad_input(problem));
    }
    let mut expanded = shared_out(weight, rows, columns, share)?;
    add_hidden(&mut expanded, (rows, columns), share, initial)?;
    Ok(expanded)
}

/// A matrix `[expanded out, expanded in]` that maps everything in the image of `columns` to zero
/// and is not zero: Z (I − E_in L), for a new layer whose fan-outs of copies cancel. `initial` as
/// for [`linear`].
///
/// Lossless as a new layer's last matrix, because Z (I − E_in L) E_in = 0: it adds nothing to the
/// stream (LEMON, section 4.4, type 2).
///
/// # Errors
/// If a row of Z does not fit the maps, a channel that is read has no copy, or there is not enough
/// memory.
pub fn cancelling(
    rows: &Map,
    columns: &Map,
    initial: impl FnMut(usize) -> Option<Array1<f64>>,
) -> Result<Array2<f64>> {
    if !columns.covers() {
        return Err(Error::bad_input("a channel that is read has no copy"));
    }
    let mut expanded = memory::zeros(rows.len(), columns.len())?;
    add_hidden(&mut expanded, (rows, columns), Share::Equal, initial)?;
    Ok(expanded)
}

/// As [`cancelling`], without random numbers: half of each fan-out of `weight` `[source out, source
/// in]` goes to the first copy and minus half to the second.
///
/// Lossless as a new layer's last matrix, because both copies hold the same.
///
/// # Errors
/// If `weight` does not fit the maps, or there is not enough memory.
pub fn opposite(weight: &Array2<f64>, rows: &Map, columns: &Map) -> Result<Array2<f64>> {
    shared_out(weight, rows, columns, Share::Opposite)
}

/// The rows of a random initialisation, for [`linear`] and [`cancelling`].
pub fn rows_of(initial: &Array2<f64>) -> impl FnMut(usize) -> Option<Array1<f64>> + '_ {
    |row| (row < initial.nrows()).then(|| initial.row(row).to_owned())
}

/// `E_out W L`.
fn shared_out(
    weight: &Array2<f64>,
    rows: &Map,
    columns: &Map,
    share: Share,
) -> Result<Array2<f64>> {
    if weight.dim() != (rows.sources(), columns.sources()) {
        return Err(Error::bad_input(format!(
            "a matrix of shape {:?} does not fit maps of {} and {} coordinates",
            weight.dim(),
            rows.sources(),
            columns.sources()
        )));
    }
    let mut expanded = memory::zeros(rows.len(), columns.len())?;
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
    Ok(expanded)
}

/// Adds `Z (I − E_in L)` to the rows that are copies.
fn add_hidden(
    expanded: &mut Array2<f64>,
    (rows, columns): (&Map, &Map),
    share: Share,
    mut initial: impl FnMut(usize) -> Option<Array1<f64>>,
) -> Result<()> {
    let split = columns.split(share);
    for ((index, entry), mut row) in
        rows.entries().iter().enumerate().zip(expanded.outer_iter_mut())
    {
        let Entry::Copy(_) = entry else { continue };
        let Some(mut numbers) = initial(index) else { continue };
        if numbers.len() != columns.len() {
            return Err(Error::bad_input(format!(
                "row {index} of the initialisation has {} numbers instead of {}",
                numbers.len(),
                columns.len()
            )));
        }
        split.hide(&mut numbers);
        row += &numbers;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::samples::{dense, pairs};
    use super::*;

    fn numbers(rows: usize, columns: usize) -> Array2<f64> {
        Array2::from_shape_fn((rows, columns), |(i, j)| ((7 * i + 3 * j + 1) as f64).sin())
    }

    #[test]
    fn the_expanded_matrix_maps_the_image_as_the_source_does() {
        let weight = numbers(4, 3);
        for (rows, columns) in pairs() {
            let initial = numbers(rows.len(), columns.len());
            for share in [Share::Equal, Share::First, Share::Last] {
                let large = linear(&weight, &rows, &columns, share, rows_of(&initial)).unwrap();
                let error = large.dot(&dense(&columns)) - rows.expand_rows(&weight);
                assert!(error.iter().all(|e| e.abs() < 1e-12), "{rows:?} {columns:?} {share:?}");
            }
        }
    }

    #[test]
    fn the_complement_leaves_all_but_the_last_copy_as_they_were_drawn() {
        let (rows, columns) = (Map::identity(2), Map::circular(3, 9));
        let initial = numbers(2, 9);
        let large =
            linear(&numbers(2, 3), &rows, &columns, Share::Last, rows_of(&initial)).unwrap();
        let first = |matrix: &Array2<f64>| matrix.slice(ndarray::s![.., ..6]).to_owned();
        let error = first(&large) - first(&initial);
        assert!(error.iter().all(|e| e.abs() < 1e-15));
    }

    #[test]
    fn the_projection_of_a_lossless_matrix_is_that_matrix() {
        let (weight, rows, columns) = (numbers(4, 3), Map::identity(4), Map::circular(3, 7));
        let initial = numbers(4, 7);
        let once = linear(&weight, &rows, &columns, Share::Equal, rows_of(&initial)).unwrap();
        let twice = linear(&weight, &rows, &columns, Share::Equal, rows_of(&once)).unwrap();
        assert!((once - twice).iter().all(|e| e.abs() < 1e-14));
    }

    #[test]
    fn a_cancelling_matrix_maps_the_image_to_zero_and_is_not_zero() {
        for (rows, columns) in pairs().into_iter().filter(|(_, c)| c.replicates()) {
            let initial = numbers(rows.len(), columns.len());
            let random = cancelling(&rows, &columns, rows_of(&initial)).unwrap();
            let halves = opposite(&numbers(4, 3), &rows, &columns).unwrap();
            for large in [random, halves] {
                let image = large.dot(&dense(&columns));
                assert!(image.iter().all(|e| e.abs() < 1e-12), "{rows:?} {columns:?}");
                assert!(large.iter().any(|value| *value != 0.0));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let (rows, columns) = (Map::zero(4, 6), Map::circular(3, 6));
        let with = |weight: &Array2<f64>, columns: &Map, share, z: &Array2<f64>| {
            linear(weight, &rows, columns, share, rows_of(z)).is_err()
        };
        let (weight, z) = (numbers(4, 3), numbers(6, 6));
        assert!(!with(&weight, &columns, Share::Equal, &z));
        assert!(with(&numbers(3, 4), &columns, Share::Equal, &z));
        assert!(with(&weight, &columns, Share::Equal, &numbers(6, 5)));
        assert!(with(&weight, &columns, Share::Opposite, &z));
        assert!(with(&weight, &Map::zero(3, 2), Share::Equal, &z), "no whole copy");
    }
}
