//! Channels that contribute no more than rounding, whatever became of their copies.

use super::agreement::Agreement;
use super::bounded::{Bounded, Ratio, Row, UNITS};
use super::cluster::Member;
use super::map::Map;
use super::writes::{Keys, Writes};
use ndarray::{Array1, Array2, Zip};
use std::collections::{BTreeMap, BTreeSet};

/// Takes apart groups that the other model lacks if the linear factor or the row of the key is zero
/// within its bounds in all their channels, and the fan-outs no larger than others' or than
/// `copied`, the image of the largest that the source multiplies by exactly zero: the product is as
/// small as rounding: that of others, by which their sums are held, comes to as much. (A neuron
/// that reads nothing is copied to one that reads `z` from one copy of a channel and `−z` from
/// another.) Where some are zero alone, the group is of copies whose bounds differ.
///
/// Rows of rounding are one equation with zero, over all of them: every one near its limit, many
/// neurons together would be no rounding any more.
pub(super) fn drop_zeros(
    writes: &Writes,
    copied: f64,
    members: &mut [Vec<Member>; 2],
    side: usize,
    agreement: &mut Agreement,
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
    for (channel, member) in members[side].iter_mut().enumerate() {
        if member.is_some_and(|(group, _)| !others.contains(&group) && !kept.contains(&group)) {
            *member = None;
            for row in factors(writes, channel).iter().filter(|row| row.is_rounding()) {
                let zero = Bounded::zeros(1, row.len());
                agreement.add(row, &zero.row(0), Ratio::ONE, channel, 0);
            }
        }
    }
}

/// How much larger than others a fan-out may be that is multiplied by what rounding left.
const GIANT: f64 = 4.0;

/// Takes apart the groups of a source whose channels are so faint that rounding has drowned copies
/// of them; a drowned channel whose fan-out is a giant's stands alone.
///
/// A copy that is drowned is not recognised: it may be a multiple of anything. But every number
/// that it reads by is as small as its bound, and so are those of its original,
/// `|r| ≤ 2·UNITS·bound(e)`. So original and copies are held to nothing, as long as the drowned
/// fan-outs are as large: those of copies sum to the original's image,
/// `|E fan-out(c)| ≤ Σ |fan-out(e)|`, channel by channel. No part of them pays twice, so that a few
/// that are drowned do not excuse many that are not.
pub(super) fn drop_faint(
    sides: [&Writes; 2],
    keys: [&[(usize, Ratio)]; 2],
    (map, modulo_one): (&Map, bool),
    members: &mut [Vec<Member>; 2],
    count: &mut usize,
) {
    let [source, expanded] = sides;
    let is_drowned = |channel: usize| expanded.is_zero(channel, UNITS);
    let drowned: Vec<usize> = (0..keys[1].len()).filter(|channel| is_drowned(*channel)).collect();
    let sizes = expanded.sizes();
    let largest = expanded.largest(|channel| !is_drowned(channel));
    let largest = largest.max(map.growth() * source.largest(|_| true));
    for channel in &drowned {
        if sizes[*channel] > GIANT * largest {
            members[1][*channel] = Some((*count, Ratio::ONE));
            *count += 1;
        }
    }
    let Some(groups) = faint_groups(sides, keys, members, &drowned) else { return };
    let centred = |fan_outs: Bounded| if modulo_one { fan_outs.centre_columns() } else { fan_outs };
    let mut left = centred(expanded.fan_outs(&drowned)).value.mapv(f64::abs);
    let mut lost = BTreeSet::new();
    for Faint { group, channels } in groups {
        let mut receipts = Vec::new();
        let is_paid = channels.iter().all(|(side, channel, copies)| {
            let fan_out = match side {
                0 => map.image(&source.fan_outs(&[*channel])),
                _ => expanded.fan_outs(&[*channel]),
            };
            let owed = centred(fan_out).value.column(0).mapv(|number| number.abs() / GIANT);
            pay(owed, &mut left, copies, &mut receipts)
        });
        if is_paid {
            lost.insert(group);
            continue;
        }
        for (place, paid) in receipts {
            let mut of = left.column_mut(place);
            of += &paid;
        }
    }
    for member in members.iter_mut().flatten() {
        if member.is_some_and(|(group, _)| lost.contains(&group)) {
            *member = None;
        }
    }
}

/// A group whose channels may all be faint.
struct Faint {
    group: usize,
    /// The model of each, its number there, and the places of the drowned channels that it may be a
    /// copy or the original of.
    channels: Vec<(usize, usize, Vec<usize>)>,
}

/// More numbers are not compared: it would take too long.
const COMPARED_LIMIT: usize = 1 << 28;

/// The groups of the source that may be faint, those first that have the fewest drowned channels to
/// themselves; none if it takes too long to tell.
fn faint_groups(
    sides: [&Writes; 2],
    keys: [&[(usize, Ratio)]; 2],
    members: &[Vec<Member>; 2],
    drowned: &[usize],
) -> Option<Vec<Faint>> {
    let copies: Vec<(usize, Vec<Row>)> =
        drowned.iter().map(|channel| (keys[1][*channel].0, factors(sides[1], *channel))).collect();
    let mut groups: BTreeMap<usize, Vec<(usize, usize, Vec<usize>)>> = BTreeMap::new();
    let mut strong = BTreeSet::new();
    let mut compared = 0;
    for side in [0, 1] {
        let is_keyed = matches!(sides[side].keys, Keys::Rows(_));
        for (channel, member) in members[side].iter().enumerate() {
            let Some((group, _)) = member else { continue };
            if strong.contains(group) || (side == 1 && !groups.contains_key(group)) {
                continue;
            }
            let (key, mine) = (keys[side][channel].0, factors(sides[side], channel));
            let may_be = |(_, (other, theirs)): &(usize, &(usize, Vec<Row>))| {
                is_as_faint((&mine, is_keyed), theirs, key == *other)
            };
            let copies: Vec<usize> =
                copies.iter().enumerate().filter(may_be).map(|(place, _)| place).collect();
            let numbers: usize = mine.iter().map(Row::len).sum();
            compared += drowned.len() + copies.len() * numbers;
            if compared > COMPARED_LIMIT {
                return None;
            }
            if copies.is_empty() {
                strong.insert(*group);
                groups.remove(group);
            } else {
                groups.entry(*group).or_default().push((side, channel, copies));
            }
        }
    }
    let mut groups: Vec<Faint> =
        groups.into_iter().map(|(group, channels)| Faint { group, channels }).collect();
    groups.sort_by_key(|faint| faint.channels.iter().map(|(.., copies)| copies.len()).min());
    Some(groups)
}

/// Pays what is owed, channel by channel of the stream, from what is left of these drowned
/// fan-outs, `[hidden, drowned]`. Whether it is enough.
fn pay(
    mut owed: Array1<f64>,
    left: &mut Array2<f64>,
    from: &[usize],
    receipts: &mut Vec<(usize, Array1<f64>)>,
) -> bool {
    for place in from {
        if owed.iter().all(|owed| *owed == 0.0) {
            break;
        }
        let mut of = left.column_mut(*place);
        let paid = Zip::from(&owed).and(&of).map_collect(|owed, left| owed.min(*left));
        owed -= &paid;
        of -= &paid;
        receipts.push((*place, paid));
    }
    owed.iter().all(|owed| *owed == 0.0)
}

/// What a channel's fan-out is multiplied by: the row of its key, and of its linear factor.
fn factors(writes: &Writes, channel: usize) -> Vec<Row<'_>> {
    let key = match &writes.keys {
        Keys::Rows(rows) => Some(rows.row(channel)),
        Keys::Patterns(..) => None,
    };
    let linear = writes.linear.as_ref().map(|(rows, of)| rows.row(of[channel]));
    key.into_iter().chain(linear).collect()
}

/// Whether one factor of a channel is as faint as the rounding of a drowned one, number by number,
/// and the other, if it has one, is equal: the key of its linear factor, or the other way round.
fn is_as_faint((mine, is_keyed): (&[Row], bool), theirs: &[Row], same_key: bool) -> bool {
    let faint = |mine: &Row, theirs: &Row| {
        let mut pairs = mine.value.iter().zip(theirs.variance);
        pairs.all(|(v, variance)| v * v <= 4.0 * UNITS.powi(2) * variance) && theirs.is_zero(UNITS)
    };
    match (mine, theirs) {
        ([mine], [theirs]) => (same_key || is_keyed) && faint(mine, theirs),
        ([key, linear], [their_key, their_linear]) => {
            (same_key && faint(linear, their_linear))
                || (faint(key, their_key) && linear.equals(their_linear, Ratio::ONE, UNITS))
        }
        _ => false,
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
            drop_zeros(&writes, 0.0, &mut members, 1, &mut Agreement::new(0.0));
            assert!(members[1][0].is_some());
            members[1][1].is_none()
        };
        // Their lengths are 10 and √2 times the giant's.
        assert!(dropped(28.0, None) && !dropped(28.5, None));
        assert!(dropped(280.0, Some([0.0, 0.1])) == dropped(40.0, None));
        assert!(dropped(40.0, Some([0.0, 0.1])) && !dropped(40.5, Some([0.0, 0.1])));
    }

    #[test]
    fn a_large_bound_on_one_number_excuses_no_other() {
        let drowned = Bounded { value: array![[0.0, 0.0]], variance: array![[1e-8, 1e-24]] };
        let is_faint = |row: [f64; 2]| {
            let row = Bounded::stored(array![row], 1e-9, 0.0);
            is_as_faint((&[row.row(0)], true), &[drowned.row(0)], true)
        };
        // Sixteen bounds are 1.6e-3 and 1.6e-11.
        assert!(is_faint([1e-3, 1e-11]));
        assert!(!is_faint([1e-5, 1e-5]) && !is_faint([2e-3, 0.0]));
    }

    #[test]
    fn many_rows_near_their_limit_are_no_rounding() {
        let holds = |row: f64| {
            let rows = Array2::from_elem((100, 1), row);
            let writes = Writes::of_neurons(rows, Array2::ones((2, 100)), None);
            let mut members = [vec![], vec![Some((0, Ratio::ONE)); 100]];
            let mut agreement = Agreement::new(0.0);
            drop_zeros(&writes, 2.0, &mut members, 1, &mut agreement);
            assert!(members[1].iter().all(Option::is_none));
            agreement.holds()
        };
        assert!(holds(1e-6) && !holds(7e-6));
    }

    /// The groups of neurons of a source, of which all but the first are faint and one group, and
    /// of expanded ones: a row, its fan-out, and the group that it was put in.
    fn left(
        fan_outs: &[f64],
        expanded: &[(f64, [f64; 2], Option<usize>)],
        modulo_one: bool,
    ) -> [Vec<Option<usize>>; 2] {
        let neurons = |neurons: Vec<(f64, [f64; 2])>| {
            let row = |(row, _): &(f64, [f64; 2])| *row;
            let rows = Array2::from_shape_fn((neurons.len(), 1), |(i, _)| row(&neurons[i]));
            let fan_out = Array2::from_shape_fn((2, neurons.len()), |(i, j)| neurons[j].1[i]);
            Writes::of_neurons(rows, fan_out, None)
        };
        let faint =
            |(i, fan_out): (usize, &f64)| (if i == 0 { 1.0 } else { 1e-5 }, [*fan_out, 0.0]);
        let source = neurons(fan_outs.iter().enumerate().map(faint).collect());
        let larger = neurons(expanded.iter().map(|(row, fan_out, _)| (*row, *fan_out)).collect());
        let member = |group: Option<usize>| group.map(|group| (group, Ratio::ONE));
        let mut members = [
            (0..fan_outs.len()).map(|i| member(Some(i.min(1)))).collect::<Vec<_>>(),
            expanded.iter().map(|(.., group)| member(*group)).collect(),
        ];
        let keys = members.each_ref().map(|side| {
            side.iter().map(|m| m.unwrap_or((usize::MAX, Ratio::ONE))).collect::<Vec<_>>()
        });
        let entries = [0, 1].map(|of| Entry::Copy { of, sign: 1.0 }).to_vec();
        let map = Map { source: 2, entries, scale: 1.0, scale_error: 0.0 };
        let sides = [&source, &larger];
        drop_faint(sides, [&keys[0], &keys[1]], (&map, modulo_one), &mut members, &mut 2);
        members.map(|side| side.into_iter().map(|m| m.map(|(group, _)| group)).collect())
    }

    const STRONG: (f64, [f64; 2], Option<usize>) = (1.0, [5.0, 0.0], Some(0));

    #[test]
    fn a_faint_neuron_is_held_to_nothing_where_its_copies_are_drowned() {
        // The bound of a row is 1e-6: both copies, or one of two, may be of the second.
        let drowned = (2e-6, [3.0, 0.0], None);
        let found = left(&[5.0, 6.0], &[STRONG, drowned, drowned], false);
        assert_eq!(found, [vec![Some(0), None], vec![Some(0), None, None]]);
        let found = left(&[5.0, 6.0], &[STRONG, drowned, (1e-5, [3.0, 0.0], Some(1))], false);
        assert_eq!(found, [vec![Some(0), None], vec![Some(0), None, None]]);
        // Nothing is drowned, or what is is no copy.
        for row in [(1e-5, [6.0, 0.0], Some(1)), (-9e-6, [6.0, 0.0], Some(2))] {
            let found = left(&[5.0, 6.0], &[STRONG, row], false);
            assert_eq!(found, [vec![Some(0), Some(1)], vec![Some(0), row.2]]);
        }
    }

    #[test]
    fn a_faint_neuron_counts_where_the_fan_outs_of_what_is_drowned_are_smaller() {
        for (fan_out, group) in [([1.6, 0.0], None), ([1.4, 0.0], Some(1)), ([0.0, 9.0], Some(1))] {
            let found = left(&[5.0, 6.0], &[STRONG, (2e-6, fan_out, None)], false);
            assert_eq!(found[0], [Some(0), group]);
        }
        // Each pays once.
        for (more, group) in [(0.9, None), (1.1, Some(1))] {
            let drowned = (2e-6, [1.0, 0.0], None);
            let found = left(&[5.0, 1.0, 1.0, 1.0, more], &[STRONG, drowned], false);
            assert_eq!(found[0][1..], [group; 4]);
        }
        // A constant over the channels pays nothing where norms take it away.
        for (fan_out, group) in [([6.0, 0.0], None), ([6.0, 6.0], Some(1))] {
            let found = left(&[5.0, 6.0], &[STRONG, (2e-6, fan_out, None)], true);
            assert_eq!(found[0], [Some(0), group]);
        }
    }

    #[test]
    fn a_copy_of_a_faint_neuron_that_was_made_larger_counts() {
        for (row, group) in [(1.5e-5, None), (-1.7e-5, Some(1))] {
            let others = [(2e-6, [6.0, 0.0], None), (row, [3.0, 0.0], Some(1))];
            let found = left(&[5.0, 6.0], &[STRONG, others[0], others[1]], false);
            assert_eq!(found, [vec![Some(0), group], vec![Some(0), None, group]]);
        }
    }

    #[test]
    fn a_giant_that_is_multiplied_by_rounding_stands_alone() {
        for (size, group) in [(24.0, None), (-24.5, Some(2))] {
            let found = left(&[5.0, 6.0], &[STRONG, (2e-6, [size, 0.0], None)], false);
            assert_eq!(found[1], [Some(0), group]);
        }
    }
}
