//! From token ids or pixels to the residual stream.

use super::input::{Batch, Image};
use super::norm::normalise;
use super::ops::linear;
use super::{Real, Weights};
use crate::error::Result;
use crate::model::{Embedding, Table, TableIndex};
use ndarray::{Array2, Axis, concatenate, s};

/// The residual stream in front of the first layer, `[positions, hidden]`.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn embed<R: Real>(
    weights: &Weights,
    embedding: &Embedding,
    hidden: usize,
    batch: &Batch,
) -> Result<Array2<R>> {
    let mut stream = Array2::zeros((batch.positions.len(), hidden));
    embed_images(weights, embedding, batch, &mut stream)?;
    for table in &embedding.tables {
        let all = |rows: &[usize]| rows.iter().copied().map(Some).collect();
        let rows: Vec<Option<usize>> = match table.index {
            TableIndex::Token => all(&batch.ids),
            TableIndex::Position(_) => batch.position_rows.clone(),
            TableIndex::TokenType => all(&batch.types),
        };
        add_rows(weights, table, &rows, &mut stream)?;
    }
    if let Some(norm) = &embedding.norm {
        normalise(weights, norm, &mut stream)?;
    }
    Ok(stream)
}

/// Adds row `rows[p]` of a table to each position p. Only the rows that are used are read.
fn add_rows<R: Real>(
    weights: &Weights,
    table: &Table,
    rows: &[Option<usize>],
    stream: &mut Array2<R>,
) -> Result<()> {
    let mut looked_up = Array2::zeros((rows.len(), table.lens.cols()));
    for (row, mut position) in rows.iter().zip(looked_up.outer_iter_mut()) {
        if let Some(row) = row {
            position.assign(&weights.rows::<R>(&table.lens, *row, 1)?.row(0));
        }
    }
    if table.scale != 1.0 {
        let scale = R::from_f64(table.scale);
        looked_up.mapv_inplace(|value| value * scale);
    }
    *stream += &match &table.projection {
        Some(projection) => linear(weights, projection, &looked_up)?,
        None => looked_up,
    };
    Ok(())
}

/// Writes the class token and its like to the first positions of each image and its patches'
/// vectors to the others.
fn embed_images<R: Real>(
    weights: &Weights,
    embedding: &Embedding,
    batch: &Batch,
    stream: &mut Array2<R>,
) -> Result<()> {
    let (Some(patch), false) = (&embedding.patch, batch.images.is_empty()) else { return Ok(()) };
    let cut: Vec<Array2<R>> = batch.images.iter().map(patches).collect();
    let views: Vec<_> = cut.iter().map(|one| one.view()).collect();
    let all = concatenate(Axis(0), &views).expect("patches of one model have one size");
    let vectors = linear(weights, patch, &all)?;
    let prefix = embedding.prefix.iter().map(|lens| weights.rows::<R>(lens, 0, lens.rows()));
    let prefix: Vec<Array2<R>> = prefix.collect::<Result<_>>()?;
    let mut next = 0;
    for rows in &batch.sequences {
        let mut first = rows.start;
        for token in prefix.iter().flat_map(|tokens| tokens.outer_iter()) {
            stream.row_mut(first).assign(&token);
            first += 1;
        }
        let count = rows.end - first;
        stream
            .slice_mut(s![first..rows.end, ..])
            .assign(&vectors.slice(s![next..next + count, ..]));
        next += count;
    }
    Ok(())
}

/// The patches of an image, row by row, `[patches, channels·side·side]`; each is flattened as a
/// convolution's kernel is stored: channel, then row, then column. Pixels at the right and bottom
/// edge that fill no patch are dropped, as a convolution without padding does.
fn patches<R: Real>(image: &Image) -> Array2<R> {
    let (channels, height, width) = image.pixels.dim();
    let (side, across) = (image.side, width / image.side);
    let shape = (height / side * across, channels * side * side);
    Array2::from_shape_fn(shape, |(patch, tap)| {
        let (channel, y, x) = (tap / (side * side), tap / side % side, tap % side);
        let (top, left) = (patch / across * side, patch % across * side);
        R::from_f64(image.pixels[[channel, top + y, left + x]])
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array3, array};

    #[test]
    fn patches_are_cut_row_by_row_and_the_rest_is_dropped() {
        let pixels = Array3::from_shape_fn((2, 3, 5), |(c, y, x)| (100 * c + 10 * y + x) as f64);
        let cut: Array2<f64> = patches(&Image { pixels: &pixels, side: 2 });
        let expected = array![
            [0.0, 1.0, 10.0, 11.0, 100.0, 101.0, 110.0, 111.0],
            [2.0, 3.0, 12.0, 13.0, 102.0, 103.0, 112.0, 113.0],
        ];
        assert_eq!(cut, expected);
    }
}
