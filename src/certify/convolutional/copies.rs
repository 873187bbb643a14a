//! Copy maps of channels.

use crate::certify::bounded::Bounded;
use ndarray::{Array1, ArrayView1};

/// Which source channel each channel of the expanded network is a copy of.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Copies {
    of: Vec<Option<usize>>,
    /// Which of the source's channels are always zero.
    silent: Vec<bool>,
}

/// Rows on either side of a fingerprint's place that are compared in full: rounding may swap
/// neighbours.
const NEIGHBOURS: usize = 4;

impl Copies {
    /// Every channel is a copy of itself.
    pub fn identity(channels: usize) -> Copies {
        Copies { of: (0..channels).map(Some).collect(), silent: vec![false; channels] }
    }

    /// How the source itself reads its channels: all as they are, but for those that are always
    /// zero and of which the expanded network has no copy. What reads these reads nothing.
    pub fn own(&self) -> Copies {
        let mut needed: Vec<bool> = self.silent.iter().map(|silent| !silent).collect();
        self.of.iter().flatten().for_each(|of| needed[*of] = true);
        let of = needed.iter().enumerate().map(|(channel, needed)| needed.then_some(channel));
        Copies { of: of.collect(), silent: self.silent.clone() }
    }

    /// Channels of the source.
    pub fn sources(&self) -> usize {
        self.silent.len()
    }

    /// For each channel, the source's that it is a copy of; `None` where it is always zero.
    pub fn of(&self) -> &[Option<usize>] {
        &self.of
    }

    /// For each row of `expanded`, the row of `source` that is nearest to it; none for rows that
    /// are exactly zero. Whether they are equal is for the caller to hold: any map that is held is
    /// as good as another.
    pub fn read_off(source: &Bounded, expanded: &Bounded) -> Copies {
        let probe = probe(source.cols());
        let marks = source.value.dot(&probe);
        let mut order: Vec<usize> = (0..source.rows()).collect();
        order.sort_by(|a, b| marks[*a].total_cmp(&marks[*b]));
        let nearest = |row: usize| {
            let values = expanded.value.row(row);
            if values.iter().all(|value| *value == 0.0) {
                return None;
            }
            let mark = values.dot(&probe);
            let place = order.partition_point(|other| marks[*other] < mark);
            let from = place.saturating_sub(NEIGHBOURS);
            let candidates = order[from..(place + NEIGHBOURS).min(order.len())].iter();
            let distance = |other: usize| {
                let pairs = values.iter().zip(source.value.row(other));
                pairs.map(|(a, b)| (a - b) * (a - b)).sum::<f64>()
            };
            let apart = candidates.map(|other| (distance(*other), *other));
            apart.min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))).map(|(_, other)| other)
        };
        let zero = |row: ArrayView1<f64>| row.iter().all(|value| *value == 0.0);
        Copies {
            of: (0..expanded.rows()).map(nearest).collect(),
            silent: source.value.rows().into_iter().map(zero).collect(),
        }
    }

    /// Such as `64 → 80: copies, 1 to 2 of each`.
    pub fn words(&self) -> String {
        let mut count = vec![0usize; self.sources()];
        self.of.iter().flatten().for_each(|of| count[*of] += 1);
        let (least, most) = (count.iter().min(), count.iter().max());
        let zeros = self.of.iter().filter(|of| of.is_none()).count();
        let of_each = match (least, most) {
            (Some(least), Some(most)) if least == most => format!("{most} of each"),
            (Some(least), Some(most)) => format!("{least} to {most} of each"),
            _ => "of nothing".into(),
        };
        let zeros = if zeros == 0 { String::new() } else { format!(", {zeros} zero") };
        format!("{} → {}: copies, {of_each}{zeros}", self.sources(), self.of.len())
    }
}

/// A fixed vector of numbers without pattern, to tell rows apart by their product with it: the
/// fractional parts of multiples of the golden ratio's square, scattered by a second multiple.
fn probe(length: usize) -> Array1<f64> {
    let golden = (5f64.sqrt() - 1.0) / 2.0;
    (0..length)
        .map(|i| {
            let first = (i as f64 + 1.0) * golden;
            let second = first.fract() * 97.0 + (i as f64) * 2f64.sqrt();
            second.fract() - 0.5
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn copies_and_zeros_are_read_off() {
        let stored = |value| Bounded::stored(value, 1e-9, 0.0);
        let source = stored(array![[1.0, 2.0], [3.0, -4.0], [0.5, 0.0]]);
        let expanded = array![[3.0, -4.0], [0.0, 0.0], [1.0, 2.0], [0.5, 0.0], [3.0, -4.0]];
        let map = Copies::read_off(&source, &stored(expanded));
        assert_eq!(map.of(), [Some(1), None, Some(0), Some(2), Some(1)]);
        assert_eq!(map.words(), "3 → 5: copies, 1 to 2 of each, 1 zero");
    }

    #[test]
    fn a_channel_that_is_zero_in_both_networks_is_read_by_neither() {
        let stored = |value| Bounded::stored(value, 1e-9, 0.0);
        let source = stored(array![[1.0, 2.0], [0.0, 0.0]]);
        let none = Copies::read_off(&source, &stored(array![[1.0, 2.0], [0.0, 0.0]]));
        assert_eq!(none.own().of(), [Some(0), None]);
        // Nearly zero is a copy of it, and counts.
        let nearly = Copies::read_off(&source, &stored(array![[1.0, 2.0], [0.0, 1e-12]]));
        assert_eq!(nearly.own().of(), [Some(0), Some(1)]);
    }
}
