//! Relative position bias: what a head adds to its logits for how far apart two positions are.

use super::Lens;
use std::collections::BTreeSet;

/// A learned number for each head and each bucket of distances, added to the logits (T5: Raffel et
/// al., arXiv 1910.10683, section 2.1).
#[derive(Clone, Debug, PartialEq)]
pub struct RelativeBias {
    /// `[buckets, heads]`; one for all self-attention layers of a stack.
    pub table: Lens,
    /// Distances from here on share the last bucket; more than [`RelativeBias::near`].
    pub max_distance: usize,
    /// Whether keys behind the query have buckets of their own, the upper half; otherwise they
    /// share the bucket of distance 0.
    pub two_sided: bool,
}

impl RelativeBias {
    /// Buckets of one side.
    fn side(&self) -> usize {
        self.table.rows() / if self.two_sided { 2 } else { 1 }
    }

    /// How many distances of one side, from 0 on, have a bucket each.
    pub fn near(&self) -> usize {
        self.side() / 2
    }

    /// The bucket of a key at position `key` for a query at position `query`.
    ///
    /// Above [`RelativeBias::near`], buckets grow with the logarithm of the distance. It is
    /// computed in f32, as transformers does whatever the model's number format: another rounding
    /// would move distances at the edge of a bucket.
    pub fn bucket(&self, query: usize, key: usize) -> usize {
        let (side, near) = (self.side(), self.near());
        let behind = key > query;
        let first = if behind && self.two_sided { side } else { 0 };
        let distance = if behind && !self.two_sided { 0 } else { query.abs_diff(key) };
        if distance < near {
            return first + distance;
        }
        let share = libm::logf(distance as f32 / near as f32)
            / libm::log(self.max_distance as f64 / near as f64) as f32;
        let far = near + (share * (side - near) as f32) as usize;
        first + far.min(side - 1)
    }

    /// The buckets that some pair of positions has, in order. Others may hold anything.
    pub fn reachable(&self) -> Vec<usize> {
        let far = self.max_distance.saturating_add(1);
        let before = (0..=far).map(|distance| self.bucket(distance, 0));
        let behind = (0..=far).map(|distance| self.bucket(0, distance));
        before.chain(behind).collect::<BTreeSet<_>>().into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Dim;

    fn bias(buckets: usize, max_distance: usize, two_sided: bool) -> RelativeBias {
        let table = Lens::matrix("bias", Dim::new(buckets, "buckets"), [Dim::one()]);
        RelativeBias { table, max_distance, two_sided }
    }

    /// The distances at which another bucket begins, before and behind the query, as
    /// transformers 5.23 has them.
    #[test]
    fn buckets_begin_where_they_do_in_transformers() {
        let edges = |bias: &RelativeBias, behind: bool| -> Vec<usize> {
            let place = |d: usize| if behind { bias.bucket(0, d) } else { bias.bucket(d, 0) };
            (1..bias.max_distance + 50).filter(|d| place(*d) != place(d - 1)).collect()
        };
        let usual = [1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91];
        for (bias, before) in [
            (bias(32, 128, true), &usual[..]),
            (bias(9, 30, true), &[1, 2, 8]),
            (bias(9, 30, false), &[1, 2, 3, 4, 6, 9, 14, 21]),
            (bias(8, 20, false), &[1, 2, 3, 4, 6, 9, 14]),
        ] {
            assert_eq!(edges(&bias, false), before, "{bias:?}");
            assert_eq!(edges(&bias, true), if bias.two_sided { before } else { &[] }, "{bias:?}");
        }
        let (two, one) = (bias(32, 128, true), bias(32, 128, false));
        assert_eq!([two.bucket(0, 0), two.bucket(0, 1), two.bucket(1, 0)], [0, 17, 1]);
        assert_eq!([two.bucket(999, 0), two.bucket(0, 999)], [15, 31]);
        assert_eq!([one.bucket(999, 0), one.bucket(0, 999)], [31, 0]);
    }

    #[test]
    fn buckets_that_no_distance_has_are_not_reachable() {
        // Distance 0 is not behind the query.
        let all: Vec<usize> = (0..32).filter(|bucket| *bucket != 16).collect();
        assert_eq!(bias(32, 128, true).reachable(), all);
        assert_eq!(bias(32, 128, false).reachable(), (0..32).collect::<Vec<_>>());
        // 17/16 to 20/16 is too far in four steps for sixteen buckets.
        assert!(bias(32, 20, false).reachable().len() < 24);
    }
}
