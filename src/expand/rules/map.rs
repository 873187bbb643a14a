//! The maps E between activation spaces: x_expanded = E x_source.
//!
//! A [`Map`] is never stored as a matrix: each expanded coordinate is a copy of a source
//! coordinate, the mean of all (each times a weight of its own, where LayerScale stands behind), or
//! zero, times one scale.

use crate::error::{Error, Result};
use crate::expand::memory;
use ndarray::{Array1, Array2, ArrayView1, ArrayViewMut1};
use std::sync::Arc;

/// What one expanded coordinate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The source coordinate of this index.
    Copy(usize),
    /// The mean of all source coordinates, each times its weight.
    Mean,
    /// Zero.
    Zero,
}

/// How a column that is read by several copies is shared out among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// Every copy the same share.
    Equal,
    /// All of it to the first copy.
    First,
    /// All of it to the last copy.
    Last,
    /// Half to the first copy and minus half to the second, so that nothing is left.
    Opposite,
}

/// E, `[expanded, source]`: the four vector expansions of LEMON (section 3) and mixtures of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    sources: usize,
    entries: Vec<Entry>,
    scale: f64,
    /// The weight of each source coordinate in the mean; all 1 where there are none.
    weights: Option<Arc<[f64]>>,
}

impl Map {
    /// The map that changes nothing.
    pub fn identity(size: usize) -> Self {
        Self::circular(size, size)
    }

    /// T_circ: the copies go round.
    pub fn circular(source: usize, expanded: usize) -> Self {
        let entry = |i: usize| i.checked_rem(source).map_or(Entry::Zero, Entry::Copy);
        Self::of(source, (0..expanded).map(entry))
    }

    /// T_zero: whole copies, then zeros.
    pub fn zero(source: usize, expanded: usize) -> Self {
        Self::whole_copies(source, expanded, Entry::Zero)
    }

    /// T_avg: whole copies, then means.
    pub fn average(source: usize, expanded: usize) -> Self {
        Self::whole_copies(source, expanded, Entry::Mean)
    }

    /// One copy, then zeros.
    pub fn padded(source: usize, expanded: usize) -> Self {
        let entry = |i| if i < source { Entry::Copy(i) } else { Entry::Zero };
        Self::of(source, (0..expanded).map(entry))
    }

    /// T_rand: one copy of each coordinate, then copies of those that `pick` names, given how many
    /// there are.
    ///
    /// # Errors
    /// If `pick` names one that is not there.
    pub fn random(
        source: usize,
        expanded: usize,
        mut pick: impl FnMut(usize) -> usize,
    ) -> Result<Self> {
        let entry = |i| Entry::Copy(if i < source { i } else { pick(source) });
        Self::new(source, (0..expanded).map(entry))
    }

    /// The map of `sources` coordinates with these entries, of scale 1.
    ///
    /// # Errors
    /// If an entry copies a coordinate that is not there.
    pub fn new(sources: usize, entries: impl IntoIterator<Item = Entry>) -> Result<Self> {
        let map = Self::of(sources, entries);
        let missing = |entry: &&Entry| matches!(entry, Entry::Copy(j) if *j >= sources);
        match map.entries.iter().find(missing) {
            None => Ok(map),
            Some(entry) => Err(Error::bad_input(format!(
                "a map of {sources} coordinates has no {entry:?}: they count from 0"
            ))),
        }
    }

    /// As [`Map::new`], for entries that are known to be right.
    pub(in crate::expand) fn of(sources: usize, entries: impl IntoIterator<Item = Entry>) -> Self {
        Map { sources, entries: entries.into_iter().collect(), scale: 1.0, weights: None }
    }

    /// A copy of each source index that `indices` names; they are known to be right.
    pub(in crate::expand) fn copies(
        source: usize,
        indices: impl IntoIterator<Item = usize>,
    ) -> Self {
        Self::of(source, indices.into_iter().map(Entry::Copy))
    }

    fn whole_copies(source: usize, expanded: usize, residue: Entry) -> Self {
        let whole = expanded.checked_div(source).unwrap_or(0) * source;
        let entry = |i| if i < whole { Entry::Copy(i % source) } else { residue };
        Self::of(source, (0..expanded).map(entry))
    }

    /// This map times `factor`.
    pub fn scaled(mut self, factor: f64) -> Self {
        self.scale *= factor;
        self
    }

    /// This map with these weights, one for each source coordinate, in its means.
    pub(super) fn weighted(mut self, weights: Vec<f64>) -> Self {
        debug_assert_eq!(weights.len(), self.sources, "one weight for each coordinate");
        self.weights = Some(weights.into());
        self
    }

    /// This map with the entries of `other` in place of zeros.
    pub(in crate::expand) fn filled_from(&self, other: &Map) -> Self {
        let pairs = self.entries.iter().zip(&other.entries);
        let entry =
            |(own, other): (&Entry, &Entry)| if *own == Entry::Zero { *other } else { *own };
        Map::of(self.sources, pairs.map(entry)).scaled(self.scale)
    }

    /// The map of heads whose channels are mapped as well: coordinates are head-major.
    ///
    /// # Panics
    /// If a head is no copy or a channel is a mean, which no rule makes.
    pub(in crate::expand) fn within_heads(&self, channels: &Map) -> Self {
        let entry = |(head, channel): (Entry, Entry)| match (head, channel) {
            (Entry::Copy(h), Entry::Copy(c)) => Entry::Copy(h * channels.sources + c),
            (Entry::Copy(_), Entry::Zero) => Entry::Zero,
            other => panic!("heads are copied and channels are no means, got {other:?}"),
        };
        let pairs = self.entries.iter().flat_map(|h| channels.entries.iter().map(|c| (*h, *c)));
        let scale = self.scale * channels.scale;
        Map::of(self.sources * channels.sources, pairs.map(entry)).scaled(scale)
    }

    /// Source coordinates.
    pub fn sources(&self) -> usize {
        self.sources
    }

    /// Expanded coordinates.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no expanded coordinates.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What each expanded coordinate holds, but for the scale.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The factor on every coordinate.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// Whether a pointwise function may be applied to the expanded coordinates: then none is a
    /// mean, and none is scaled.
    pub fn commutes_with_activations(&self) -> bool {
        self.scale == 1.0 && !self.has_means()
    }

    /// Whether it holds means.
    pub fn has_means(&self) -> bool {
        self.entries.contains(&Entry::Mean)
    }

    /// Whether every source coordinate has at least two copies.
    pub fn replicates(&self) -> bool {
        self.count().iter().all(|n| *n >= 2)
    }

    /// Whether every source coordinate has a copy, so that what reads it can read the map's image.
    pub fn covers(&self) -> bool {
        self.scale != 0.0 && self.count().iter().all(|n| *n >= 1)
    }

    fn count(&self) -> Vec<usize> {
        let mut count = vec![0; self.sources];
        for entry in &self.entries {
            if let Entry::Copy(j) = entry {
                count[*j] += 1;
            }
        }
        count
    }

    /// The row of `E W` in which the map holds a mean, but for the scale: `[n]` for a `matrix` of
    /// `[source, n]`.
    pub(super) fn mean_row(&self, matrix: &Array2<f64>) -> Array1<f64> {
        let mut sum = Array1::zeros(matrix.ncols());
        for (j, row) in matrix.outer_iter().enumerate() {
            sum.scaled_add(self.weight(j), &row);
        }
        sum / self.sources as f64
    }

    fn weight(&self, source: usize) -> f64 {
        self.weights.as_ref().map_or(1.0, |weights| weights[source])
    }

    /// `E W`: `[source, n]` to `[expanded, n]`.
    ///
    /// # Panics
    /// If `matrix` has another number of rows.
    pub fn expand_rows(&self, matrix: &Array2<f64>) -> Array2<f64> {
        let mut expanded = Array2::zeros((self.len(), matrix.ncols()));
        let means = self.has_means().then(|| self.mean_row(matrix));
        for (entry, mut row) in self.entries.iter().zip(expanded.outer_iter_mut()) {
            match (entry, &means) {
                (Entry::Copy(j), _) => row.assign(&matrix.row(*j)),
                (Entry::Mean, Some(means)) => row.assign(means),
                (Entry::Mean, None) | (Entry::Zero, _) => {}
            }
        }
        if self.scale != 1.0 {
            expanded *= self.scale;
        }
        expanded
    }

    /// `W Eᵀ`: each row, a vector of the source space, is mapped: `[n, source]` to `[n, expanded]`.
    ///
    /// # Errors
    /// If the rows have another length, or there is not enough memory.
    pub fn expand_columns(&self, matrix: &Array2<f64>) -> Result<Array2<f64>> {
        if matrix.ncols() != self.sources {
            return Err(Error::bad_input(format!(
                "rows of {} numbers do not fit a map of {} coordinates",
                matrix.ncols(),
                self.sources
            )));
        }
        let mut expanded = memory::zeros(matrix.nrows(), self.len())?;
        for (from, mut to) in matrix.outer_iter().zip(expanded.outer_iter_mut()) {
            let sum = match &self.weights {
                None => from.sum(),
                Some(weights) => from.iter().zip(weights.iter()).map(|(x, w)| x * w).sum(),
            };
            let mean = sum / self.sources as f64;
            for (entry, slot) in self.entries.iter().zip(&mut to) {
                *slot = self.scale
                    * match entry {
                        Entry::Copy(j) => from[*j],
                        Entry::Mean => mean,
                        Entry::Zero => 0.0,
                    };
            }
        }
        Ok(expanded)
    }

    /// How what reads this space is made from what reads the source's.
    pub(super) fn split(&self, share: Share) -> Split<'_> {
        Split { map: self, parts: self.parts(share) }
    }

    fn parts(&self, share: Share) -> Vec<f64> {
        let count = self.count();
        let mut seen = vec![0; self.sources];
        let weight = |entry: &Entry| {
            let Entry::Copy(j) = *entry else { return 0.0 };
            seen[j] += 1;
            match (share, seen[j]) {
                (Share::Equal, _) => 1.0 / count[j] as f64,
                (Share::First, 1) => 1.0,
                (Share::Last, place) if place == count[j] => 1.0,
                (Share::Opposite, 1) if count[j] > 1 => 0.5,
                (Share::Opposite, 2) => -0.5,
                _ => 0.0,
            }
        };
        self.entries.iter().map(weight).collect()
    }
}

/// A map E with the share of each copy: a left inverse L of E, which reads copies alone.
pub(super) struct Split<'a> {
    map: &'a Map,
    /// What each copy takes of its source, before the map's scale is undone.
    parts: Vec<f64>,
}

impl Split<'_> {
    /// `w L`: adds to `expanded` what reads the expanded space as `row` reads the source.
    pub fn add(&self, row: ArrayView1<f64>, mut expanded: ArrayViewMut1<f64>) {
        for ((entry, part), slot) in self.map.entries.iter().zip(&self.parts).zip(&mut expanded) {
            if let Entry::Copy(j) = entry {
                *slot += row[*j] * (part / self.map.scale);
            }
        }
    }

    /// `z (I − E L)`: takes from `free` what would read anything on the image of E. With equal
    /// shares of a map that only copies, this is the orthogonal projection. What rounding leaves of
    /// that goes to the last copies: it may be much where the numbers left are small. So nothing at
    /// all is left of what a lone copy reads, and two copies are exact opposites.
    pub fn hide(&self, free: &mut Array1<f64>) {
        let read = self.read(free);
        for ((entry, part), slot) in self.map.entries.iter().zip(&self.parts).zip(&mut *free) {
            if let Entry::Copy(j) = entry {
                *slot -= read[*j] * part;
            }
        }
        let mut left = self.read(free);
        for (entry, slot) in self.map.entries.iter().zip(free).rev() {
            if let Entry::Copy(j) = entry {
                *slot -= std::mem::take(&mut left[*j]);
            }
        }
    }

    /// `z E` but for the scale: what `free` reads of each source coordinate.
    fn read(&self, free: &Array1<f64>) -> Vec<f64> {
        let mut read = vec![0.0; self.map.sources];
        let mut mean = 0.0;
        for (entry, value) in self.map.entries.iter().zip(free.iter()) {
            match entry {
                Entry::Copy(j) => read[*j] += value,
                Entry::Mean => mean += value / self.map.sources as f64,
                Entry::Zero => {}
            }
        }
        if mean != 0.0 {
            read.iter_mut().enumerate().for_each(|(j, read)| *read += mean * self.map.weight(j));
        }
        read
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    /// E as a matrix.
    fn dense(map: &Map) -> Array2<f64> {
        map.expand_rows(&Array2::eye(map.sources()))
    }

    fn maps() -> Vec<Map> {
        vec![
            Map::circular(3, 8),
            Map::zero(3, 8).scaled(0.25),
            Map::average(3, 8).scaled(1.5),
            Map::average(3, 5).weighted(vec![0.5, -2.0, 1.0]),
            Map::identity(3),
            Map::copies(3, [2, 0, 1, 1]),
        ]
    }

    #[test]
    fn an_activation_of_a_copy_is_a_copy_and_that_of_a_mean_is_not_the_mean() {
        let commutes: Vec<bool> = maps().iter().map(Map::commutes_with_activations).collect();
        assert_eq!(commutes, [true, false, false, false, true, true]);
        assert!(!Map::average(3, 8).commutes_with_activations());
        assert!(!Map::circular(3, 6).scaled(0.5).commutes_with_activations());
    }

    #[test]
    fn the_tiling_matrices_are_those_of_the_paper() {
        let (a, o) = (1.0 / 2.0, 0.0);
        assert_eq!(
            dense(&Map::average(2, 5)),
            array![[1.0, o], [o, 1.0], [1.0, o], [o, 1.0], [a, a]]
        );
        assert_eq!(dense(&Map::zero(2, 3)), array![[1.0, o], [o, 1.0], [o, o]]);
        assert_eq!(dense(&Map::circular(2, 3)), array![[1.0, o], [o, 1.0], [1.0, o]]);
    }

    /// L as a matrix, times E.
    fn left_inverse_times_map(map: &Map, share: Share) -> Array2<f64> {
        let mut left = Array2::zeros((3, map.len()));
        for (row, mut out) in Array2::eye(3).outer_iter().zip(left.outer_iter_mut()) {
            map.split(share).add(row, out.view_mut());
        }
        left.dot(&dense(map))
    }

    #[test]
    fn the_shares_of_copies_are_a_left_inverse() {
        for map in maps() {
            for share in [Share::Equal, Share::First, Share::Last] {
                let error = left_inverse_times_map(&map, share) - Array2::<f64>::eye(3);
                assert!(error.iter().all(|e| e.abs() < 1e-14), "{map:?} {share:?}");
            }
        }
    }

    #[test]
    fn opposite_shares_cancel() {
        for map in maps() {
            let none = left_inverse_times_map(&map, Share::Opposite);
            assert!(none.iter().all(|e| e.abs() < 1e-14), "{map:?}");
        }
    }

    #[test]
    fn hidden_numbers_read_nothing_from_the_image() {
        for map in maps() {
            let mut free = Array1::from_shape_fn(map.len(), |i| (i as f64 * 3.0).sin());
            map.split(Share::Equal).hide(&mut free);
            assert!(free.dot(&dense(&map)).iter().all(|e| e.abs() < 1e-14), "{map:?}");
        }
    }

    #[test]
    fn two_copies_hide_exact_opposites_however_little_is_left() {
        let map = Map::copies(2, [0, 1, 0, 1]);
        for seed in 0..100 {
            let near = |i: usize| (seed as f64).sin() + [0.0, 0.0, 1e-3, 1e-9][i];
            let mut free = Array1::from_shape_fn(4, near);
            map.split(Share::Equal).hide(&mut free);
            assert!(free[0] == -free[2] && free[1] == -free[3] && free[1] != 0.0, "{free}");
        }
    }

    #[test]
    fn nothing_is_hidden_in_a_lone_copy() {
        for scale in [1.0, 1.0 / 1.25, 0.7] {
            let map = Map::copies(3, [0, 1, 2, 1]).scaled(scale);
            let mut free = Array1::from_shape_fn(map.len(), |i| (i as f64 * 3.0 + 1.0).sin());
            map.split(Share::Equal).hide(&mut free);
            assert_eq!((free[0], free[2]), (0.0, 0.0), "{scale}");
            assert!(free[1] != 0.0 && free[3] == -free[1], "{scale}");
        }
    }

    #[test]
    fn expanding_columns_is_the_transpose_of_expanding_rows() {
        for map in maps() {
            let table = Array2::from_shape_fn((4, 3), |(i, j)| (i * 3 + j) as f64);
            let error = map.expand_columns(&table).unwrap() - table.dot(&dense(&map).t());
            assert!(error.iter().all(|e| e.abs() < 1e-14), "{map:?}");
        }
    }

    #[test]
    fn a_random_map_copies_every_coordinate_and_only_those_there_are() {
        let mut next = 0;
        let mut pick = |count: usize| {
            next += 2;
            next % count
        };
        let map = Map::random(3, 6, &mut pick).unwrap();
        assert_eq!(map, Map::copies(3, [0, 1, 2, 2, 1, 0]));
        assert!(Map::random(3, 6, |count| count).is_err());
        assert!(Map::new(2, [Entry::Copy(2)]).is_err());
    }

    #[test]
    fn maps_of_nothing_hold_zeros() {
        for map in [Map::circular(0, 2), Map::zero(0, 2), Map::padded(0, 2)] {
            assert_eq!(map.entries(), [Entry::Zero; 2]);
        }
    }

    #[test]
    fn heads_and_their_channels_are_mapped_together() {
        let map = Map::copies(2, [0, 1, 0]).within_heads(&Map::padded(2, 3));
        let (c, zero) = (Entry::Copy, Entry::Zero);
        assert_eq!(map.entries(), [c(0), c(1), zero, c(2), c(3), zero, c(0), c(1), zero]);
    }
}
