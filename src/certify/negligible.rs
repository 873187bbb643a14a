//! Channels that contribute no more than rounding, whatever became of their copies.

use super::bounded::{Ratio, Row, UNITS};
use super::channels::{Keys, Writes};
use super::cluster::Member;
use super::map::Map;
use std::collections::{BTreeMap, BTreeSet};

/// Takes apart groups that the other model lacks if the linear factor or the row of the key is zero
/// within its bounds in all their channels, and the fan-outs no larger than others' or than
/// `copied`, the image of the largest that the source multiplies by exactly zero: the product is as
/// small as rounding: that of others, by which their sums are held, comes to as much. (A neuron
/// that reads nothing is copied to one that reads `z` from one copy of a channel and `−z` from
/// another.) Where some are zero alone, the group is of copies whose bounds differ.
pub(super) fn drop_zeros(
    writes: &Writes,
    copied: f64,
    members: &mut [Vec<Member>; 2],
    side: usize,
) {
    let others: BTreeSet<usize> = members[1 - side].iter().flatten().map(|(g, _)| *g).collect();
    let usual = writes.largest(|channel| !writes.is_zero(channel, UNITS)).max(copied);
    let sizes = writes.sizes();
    let is_nothing =
        |channel: usize| sizes[channel] <= GIANT * usual && writes.is_zero(channel, UNITS);
    let numbered = members[side].iter().enumerate();
    let something = numbered.filter(|(channel, _)| !is_nothing(*channel));
    let kept: BTreeSet<usize> =
        something.filter_map(|(_, member)| Some(member.as_ref()?.0)).collect();
    for member in &mut members[side] {
        if member.is_some_and(|(group, _)| !others.contains(&group) && !kept.contains(&group)) {
            *member = None;
        }
    }
}

/// How much larger than others a fan-out may be that is multiplied by what rounding left.
const GIANT: f64 = 4.0;

/// Takes apart the groups of a source whose channels are so faint that rounding has drowned copies
/// of them; a drowned channel whose fan-out is a giant's stands alone.
///
/// A copy that is drowned is not recognised: it may be a multiple of anything. But what it adds to
/// the outputs is mostly rounding, `|fan-out|·bound`, and where the original and all its copies add
/// no more than that, none of them is held to anything. Of copies `e` of `c`, whose rows differ
/// from its row `r` by so little that `|r| ≤ 2·UNITS·bound(e)`, and whose fan-outs sum to its
/// image, that is true:
/// `|E fan-out(c)|·|r| ≤ Σ |fan-out(e)|·|r| ≤ 2·UNITS Σ |fan-out(e)|·bound(e)`.
pub(super) fn drop_faint(
    sides: [&Writes; 2],
    keys: [&[(usize, Ratio)]; 2],
    map: &Map,
    members: &mut [Vec<Member>; 2],
    count: &mut usize,
) {
    let [source, expanded] = sides.map(|writes| Contributions { writes, sizes: writes.sizes() });
    let (drowned, clear): (Vec<usize>, Vec<usize>) =
        (0..keys[1].len()).partition(|channel| expanded.is_drowned(*channel));
    let usual = |of: &Contributions| of.sizes.iter().copied().fold(0.0, f64::max) * map.growth();
    let largest =
        clear.iter().map(|channel| expanded.sizes[*channel]).fold(usual(&source), f64::max);
    for channel in &drowned {
        if expanded.sizes[*channel] > GIANT * largest {
            members[1][*channel] = Some((*count, Ratio::ONE));
            *count += 1;
        }
    }
    let mut groups: BTreeMap<usize, [Vec<usize>; 2]> = BTreeMap::new();
    for side in [0, 1] {
        for (channel, member) in members[side].iter().enumerate() {
            if let Some((group, _)) = member {
                groups.entry(*group).or_default()[side].push(channel);
            }
        }
    }
    let copies = |channel: usize| -> Vec<usize> {
        let may_be = |copy: &&usize| {
            let same_key = keys[0][channel].0 == keys[1][**copy].0;
            source.may_be(channel, &expanded, **copy, same_key)
        };
        drowned.iter().filter(may_be).copied().collect()
    };
    let is_lost = |[originals, clear]: &[Vec<usize>; 2]| {
        let copies: Vec<Vec<usize>> = originals.iter().map(|c| copies(*c)).collect();
        let all: BTreeSet<usize> = copies.iter().flatten().chain(clear).copied().collect();
        let noise: f64 = all.into_iter().map(|channel| expanded.noise(channel)).sum();
        let limit = 2.0 * UNITS * noise;
        !originals.is_empty()
            && copies.iter().all(|copies| !copies.is_empty())
            && originals.iter().all(|c| map.growth() * source.value(*c) <= limit)
            && clear.iter().all(|c| expanded.value(*c) <= limit)
    };
    let lost = groups.into_iter().filter(|(_, channels)| is_lost(channels));
    let lost: BTreeSet<usize> = lost.map(|(group, _)| group).collect();
    for member in members.iter_mut().flatten() {
        if member.is_some_and(|(group, _)| lost.contains(&group)) {
            *member = None;
        }
    }
}

/// How much the channels of a sublayer contribute.
struct Contributions<'a> {
    writes: &'a Writes,
    /// Of the fan-outs.
    sizes: Vec<f64>,
}

impl Contributions<'_> {
    /// What a channel's fan-out is multiplied by: the row of its key, and of its linear factor.
    fn factors(&self, channel: usize) -> Vec<Row<'_>> {
        let key = match &self.writes.keys {
            Keys::Rows(rows) => Some(rows.row(channel)),
            Keys::Patterns(..) => None,
        };
        let linear = self.writes.linear.as_ref().map(|(rows, of)| rows.row(of[channel]));
        key.into_iter().chain(linear).collect()
    }

    /// Whether a channel contributes no more than the rounding of one of its factors does.
    fn is_drowned(&self, channel: usize) -> bool {
        self.factors(channel).iter().any(Row::is_drowned)
    }

    /// The length of what a channel contributes.
    fn value(&self, channel: usize) -> f64 {
        self.factors(channel).iter().map(Row::length).product::<f64>() * self.sizes[channel]
    }

    /// The length of what the rounding of its factors contributes.
    fn noise(&self, channel: usize) -> f64 {
        let factors = self.factors(channel);
        let of = |drowned: usize| -> f64 {
            let others = factors.iter().enumerate().filter(|(factor, _)| *factor != drowned);
            others.map(|(_, row)| row.length().max(row.bound())).product::<f64>()
                * factors[drowned].bound()
        };
        (0..factors.len()).map(of).fold(0.0, f64::max) * self.sizes[channel]
    }

    /// Whether a drowned channel of the other may be a copy of this one.
    fn may_be(&self, channel: usize, other: &Contributions, copy: usize, same_key: bool) -> bool {
        let (mine, theirs) = (self.factors(channel), other.factors(copy));
        let is_key = |factor: usize| factor == 0 && matches!(self.writes.keys, Keys::Rows(_));
        let mut pairs = mine.iter().zip(&theirs).enumerate();
        pairs.any(|(factor, (mine, theirs))| {
            (same_key || is_key(factor))
                && theirs.is_drowned()
                && mine.equals(theirs, Ratio::ONE, UNITS)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certify::map::Entry;
    use ndarray::{Array2, array};

    #[test]
    fn a_neuron_that_reads_nothing_is_dropped_unless_it_is_a_giant() {
        let dropped = |giant: f64, scale| {
            // The second reads less than its rounding.
            let writes = Writes::of_neurons(
                array![[1.0], [1e-7]],
                array![[0.0, giant], [-10.0, giant]],
                scale,
            );
            let mut members = [vec![], vec![Some((0, Ratio::ONE)), Some((1, Ratio::ONE))]];
            drop_zeros(&writes, 0.0, &mut members, 1);
            assert!(members[1][0].is_some());
            members[1][1].is_none()
        };
        // Their lengths are 10 and √2 times the giant's.
        assert!(dropped(28.0, None) && !dropped(28.5, None));
        assert!(dropped(280.0, Some([0.0, 0.1])) == dropped(40.0, None));
        assert!(dropped(40.0, Some([0.0, 0.1])) && !dropped(40.5, Some([0.0, 0.1])));
    }

    /// The groups of two neurons of a source, of which the second is faint, and of expanded ones
    /// that keys place in `groups`: `None` where rounding has drowned them.
    fn left(fan_out: [f64; 2], expanded: &[(f64, f64, Option<usize>)]) -> [Vec<Option<usize>>; 2] {
        let neurons = |rows: Vec<f64>, fan_out: Vec<f64>| {
            let row = |values: Vec<f64>| Array2::from_shape_vec((1, values.len()), values).unwrap();
            let zeros = Array2::zeros((1, rows.len()));
            let fan_out = ndarray::concatenate![ndarray::Axis(0), row(fan_out), zeros];
            Writes::of_neurons(row(rows).reversed_axes(), fan_out, None)
        };
        let source = neurons(vec![1.0, 1e-5], fan_out.to_vec());
        let larger = neurons(
            expanded.iter().map(|neuron| neuron.0).collect(),
            expanded.iter().map(|neuron| neuron.1).collect(),
        );
        let groups: Vec<Option<usize>> = expanded.iter().map(|(.., group)| *group).collect();
        let member = |group: Option<usize>| group.map(|group| (group, Ratio::ONE));
        let mut members = [
            vec![member(Some(0)), member(Some(1))],
            groups.into_iter().map(member).collect::<Vec<_>>(),
        ];
        let keys = members.each_ref().map(|side| {
            side.iter().map(|m| m.unwrap_or((usize::MAX, Ratio::ONE))).collect::<Vec<_>>()
        });
        let entries = [0, 1].map(|of| Entry::Copy { of, sign: 1.0 }).to_vec();
        let map = Map { source: 2, entries, scale: 1.0, scale_error: 0.0 };
        let sides = [&source, &larger];
        drop_faint(sides, [&keys[0], &keys[1]], &map, &mut members, &mut 2);
        members.map(|side| side.into_iter().map(|m| m.map(|(group, _)| group)).collect())
    }

    #[test]
    fn a_faint_neuron_is_held_to_nothing_where_its_copies_are_drowned() {
        // The bound of a row is 1e-6: both copies, or one of two, may be of the second.
        let drowned = (2e-6, 3.0, None);
        let fan_outs = [5.0, 6.0];
        let found = left(fan_outs, &[(1.0, 5.0, Some(0)), drowned, drowned]);
        assert_eq!(found, [vec![Some(0), None], vec![Some(0), None, None]]);
        let found = left(fan_outs, &[(1.0, 5.0, Some(0)), drowned, (1e-5, 3.0, Some(1))]);
        assert_eq!(found, [vec![Some(0), None], vec![Some(0), None, None]]);
        // Nothing is drowned, or what is is no copy.
        for row in [(1e-5, 6.0, Some(1)), (-9e-6, 6.0, Some(2))] {
            let found = left(fan_outs, &[(1.0, 5.0, Some(0)), row]);
            assert_eq!(found, [vec![Some(0), Some(1)], vec![Some(0), row.2]]);
        }
    }

    #[test]
    fn a_faint_neuron_counts_where_it_adds_more_than_the_rounding_of_its_copies() {
        // 16 times 1e-6 of 3.7 are 5.92e-5, of 3.8 are 6.08e-5.
        for (size, group) in [(3.7, Some(1)), (3.8, None)] {
            let found = left([5.0, 6.0], &[(1.0, 5.0, Some(0)), (2e-6, size, None)]);
            assert_eq!(found[0], [Some(0), group]);
        }
        // So does a copy that was made larger: 16 times 1e-6 of 6 + 3 are 1.44e-4.
        for (size, group) in [(14.3, None), (-14.5, Some(1))] {
            let copy = (1e-5 * size / 3.0, 3.0, Some(1));
            let found = left([5.0, 6.0], &[(1.0, 5.0, Some(0)), (2e-6, 6.0, None), copy]);
            assert_eq!(found, [vec![Some(0), group], vec![Some(0), None, group]]);
        }
    }

    #[test]
    fn a_giant_that_is_multiplied_by_rounding_stands_alone() {
        for (size, group) in [(24.0, None), (-24.5, Some(2))] {
            let found = left([5.0, 6.0], &[(1.0, 5.0, Some(0)), (2e-6, size, None)]);
            assert_eq!(found[1], [Some(0), group]);
        }
    }
}
