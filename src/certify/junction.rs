//! Where the residual streams of two models correspond.
//!
//! What the equations prove of a stream can be looked at where they fail: run both models, and
//! where the expanded stream first is no image of the source's, something in front of it is wrong.

use super::align::Pair;
use super::bounded::Bounded;
use super::map::Map;
use ndarray::{Array2, Axis};
use std::sync::Arc;

/// A place between sublayers where the expanded stream is the image of the source's, if all
/// equations in front of it hold.
#[derive(Clone, Debug)]
pub struct Junction {
    /// Sublayers of the source in front of it.
    pub source: usize,
    /// Sublayers of the expanded model in front of it.
    pub expanded: usize,
    map: Arc<Map>,
    /// Whether a constant over the channels changes nothing.
    centred: bool,
}

impl Junction {
    /// The place in front of all sublayers, where the streams are related by `map`.
    pub(super) fn first(map: Map, centred: bool) -> Self {
        Junction { source: 0, expanded: 0, map: Arc::new(map), centred }
    }

    /// The place behind so many sublayers, where they are related by another map.
    pub(super) fn later(&self, (source, expanded): (usize, usize), map: Map) -> Self {
        Junction { source, expanded, map: Arc::new(map), ..*self }
    }

    /// This place and those behind each step of an alignment, with one map for all.
    pub(super) fn along(self, pairs: &[Pair]) -> Vec<Junction> {
        let mut junctions = vec![self];
        for (source, expanded) in pairs {
            let mut next = junctions[junctions.len() - 1].clone();
            next.source += usize::from(source.is_some());
            next.expanded += usize::from(expanded.is_some());
            junctions.push(next);
        }
        junctions
    }

    /// The source's stream `[positions, channels]` mapped to the expanded model's channels, less
    /// the mean of each position where that changes nothing.
    pub fn image(&self, source: &Array2<f64>) -> Array2<f64> {
        let exact = Bounded { value: source.clone(), variance: Array2::zeros(source.dim()) };
        let image = self.map.image_of_rows(&exact);
        self.seen(&image.value)
    }

    /// The expanded stream, or another of as many channels, less the mean of each position where
    /// that changes nothing.
    pub fn seen(&self, expanded: &Array2<f64>) -> Array2<f64> {
        match expanded.mean_axis(Axis(1)) {
            Some(mean) if self.centred => expanded - &mean.insert_axis(Axis(1)),
            _ => expanded.clone(),
        }
    }

    /// How far the factor of the map may be off, relative to it: where it was fitted to weights.
    pub fn factor_error(&self) -> f64 {
        self.map.scale_error
    }
}

#[cfg(test)]
mod tests {
    use super::super::map::Entry;
    use super::*;
    use ndarray::array;

    fn first(centred: bool) -> Junction {
        let copy = Entry::Copy { of: 1, sign: -1.0 };
        let entries = vec![Entry::Copy { of: 0, sign: 1.0 }, copy, Entry::Mean, Entry::Zero];
        Junction::first(Map { source: 2, entries, scale: 2.0, scale_error: 0.0 }, centred)
    }

    #[test]
    fn a_stream_is_mapped_channel_by_channel() {
        let source = array![[1.0, 3.0]];
        assert_eq!(first(false).image(&source), array![[2.0, -6.0, 4.0, 0.0]]);
        assert_eq!(first(true).image(&source), array![[2.0, -6.0, 4.0, 0.0]]);
        assert_eq!(first(true).image(&array![[1.0, 0.0]]), array![[1.25, -0.75, 0.25, -0.75]]);
    }

    #[test]
    fn an_alignment_says_how_many_sublayers_are_in_front() {
        let pairs = [(Some(0), Some(0)), (None, Some(1)), (Some(1), None)];
        let counts = first(false).along(&pairs);
        let counts: Vec<_> = counts.iter().map(|j| (j.source, j.expanded)).collect();
        assert_eq!(counts, [(0, 0), (1, 1), (1, 2), (2, 2)]);
    }
}
