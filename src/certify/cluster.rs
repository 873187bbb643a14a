//! Grouping rows that are equal, or multiples of one another, within their bounds.

use super::agreement::Agreement;
use super::bounded::{Bounded, Ratio, UNITS};
use ndarray::Array2;
use std::collections::BTreeMap;

/// An item's group and its factor there; none if it contributes nothing.
pub(super) type Member = Option<(usize, Ratio)>;

/// When two rows are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sameness {
    /// They are equal.
    Equal,
    /// One is a multiple of the other.
    Multiple,
    /// One is a positive multiple of the other.
    PositiveMultiple,
}

/// What a channel, or a head, is taken for that may be a copy of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefer {
    /// The nearest.
    Nearest,
    /// The nearest head, and of channels the one at its place in a circular layout of that head.
    PlaceInHead,
    /// The one at its place in a circular layout.
    Place,
}

/// How channels are grouped that rounding can hardly tell apart. Every strategy is sound: channels
/// are in one group only if they are equal within their bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strategy {
    /// Units of rounding within which two channels of one model are one.
    pub merge: f64,
    /// Which comes first among several groups that a channel fits.
    pub prefer: Prefer,
    /// Whether groups are dropped that rounding has drowned, and drowned rows of the expanded,
    /// which have no direction, are held to none.
    pub drop_faint: bool,
    /// Whether heads and keys are compared by products where no channel is equal to any.
    pub products: bool,
}

impl Strategy {
    /// Between two models, in the order in which they are tried.
    const PAIR: [Strategy; 9] = [
        Strategy { merge: 0.5, prefer: Prefer::Nearest, drop_faint: false, products: false },
        Strategy { merge: 0.5, prefer: Prefer::Place, drop_faint: false, products: false },
        Strategy { merge: UNITS, prefer: Prefer::Nearest, drop_faint: false, products: false },
        Strategy { merge: UNITS, prefer: Prefer::Place, drop_faint: false, products: false },
        Strategy { merge: 0.5, prefer: Prefer::Nearest, drop_faint: true, products: false },
        Strategy { merge: 0.5, prefer: Prefer::Place, drop_faint: true, products: false },
        Strategy { merge: 0.5, prefer: Prefer::PlaceInHead, drop_faint: true, products: false },
        Strategy { merge: 0.5, prefer: Prefer::Nearest, drop_faint: false, products: true },
        Strategy { merge: 0.5, prefer: Prefer::Place, drop_faint: true, products: true },
    ];

    /// For what stands alone, in the order in which they are tried. Copies of one channel are
    /// mostly within a unit of each other, and rarely two apart; but where there are few numbers
    /// to a channel, as at width 1, other channels are near as well, and one that lies between two
    /// limits is told from one copy and taken for the other. So the limit is lowered until all
    /// copies are on one side of it.
    const LONE: [Strategy; 5] = [
        Strategy { merge: UNITS, prefer: Prefer::Nearest, drop_faint: false, products: false },
        Strategy { merge: 4.0, prefer: Prefer::Nearest, drop_faint: false, products: false },
        Strategy { merge: 2.0, prefer: Prefer::Nearest, drop_faint: false, products: false },
        Strategy { merge: 1.0, prefer: Prefer::Nearest, drop_faint: false, products: false },
        Strategy { merge: UNITS, prefer: Prefer::Nearest, drop_faint: false, products: true },
    ];

    /// The one that is tried first between two models.
    pub const FIRST: Strategy = Strategy::PAIR[0];

    /// All, for what is in both models or in one of them.
    pub fn all(in_both: bool) -> &'static [Strategy] {
        if in_both { &Strategy::PAIR } else { &Strategy::LONE }
    }
}

/// Rows to be grouped.
pub(super) struct Items<'a> {
    pub rows: &'a Bounded,
    /// For each item its row.
    pub of: Vec<usize>,
    /// Items of different keys are never in one group.
    pub keys: Vec<usize>,
    /// Whether the last entry of a row is a bias.
    pub biased: bool,
    /// How many items in a row are channels of one head, which are copied among themselves.
    pub per_head: usize,
}

impl<'a> Items<'a> {
    /// Every row is an item, all of one key.
    pub fn of_rows(rows: &'a Bounded) -> Self {
        let (of, keys) = ((0..rows.rows()).collect(), vec![0; rows.rows()]);
        Items { rows, of, keys, biased: true, per_head: 1 }
    }

    /// Which of the items of `source` stands where this one's original does, in a circular layout:
    /// of heads, or of the first head of each key.
    fn place(&self, item: usize, source: &Items, first: &Option<FirstHeads>) -> Option<usize> {
        let (head, channel) = (item / self.per_head, item % self.per_head);
        let head = match first {
            Some(heads) => *heads.get(&self.keys[item])?,
            None => head.checked_rem(source.of.len() / source.per_head)?,
        };
        Some(head * source.per_head + channel % source.per_head)
    }

    /// The first head of each key.
    fn first_heads(&self) -> FirstHeads {
        let heads = self.keys.chunks(self.per_head).enumerate().rev();
        heads.filter_map(|(head, keys)| Some((*keys.first()?, head))).collect()
    }
}

/// The first head of each key.
type FirstHeads = BTreeMap<usize, usize>;

/// Projections by which equal rows are found.
const PROJECTIONS: usize = 8;

/// A row's projections on fixed directions, and their rounding.
#[derive(Clone, Copy)]
struct Signature {
    value: [f64; PROJECTIONS],
    error: [f64; PROJECTIONS],
}

impl Signature {
    /// Of every row; where multiples are the same, of its direction.
    fn of_rows(rows: &Bounded, same: Sameness) -> Vec<Signature> {
        let scalable = same != Sameness::Equal;
        let directions =
            Array2::from_shape_fn((rows.cols(), PROJECTIONS), |(i, p)| direction(i, p));
        let values = rows.value.dot(&directions);
        let variances = rows.variance.dot(&directions.mapv(|d| d * d));
        (0..rows.rows())
            .map(|row| {
                let all = rows.value.row(row);
                let norm = if scalable { all.dot(&all).sqrt() } else { 1.0 };
                let value = |p: usize| values[[row, p]] / norm;
                Signature {
                    value: std::array::from_fn(|p| match same {
                        Sameness::Multiple => value(p).abs(),
                        _ => value(p),
                    }),
                    error: std::array::from_fn(|p| {
                        variances[[row, p]].sqrt() / norm + 4.0 * f64::EPSILON * value(p).abs()
                    }),
                }
            })
            .collect()
    }

    /// The distance in units of rounding; `None` if the two cannot be of equal rows.
    fn distance(&self, other: &Signature) -> Option<f64> {
        let mut sum = 0.0;
        for p in 0..PROJECTIONS {
            let delta = (self.value[p] - other.value[p]).abs();
            let error = self.error[p] + other.error[p];
            if delta > 2.0 * UNITS * error {
                return None;
            }
            sum += if delta == 0.0 { 0.0 } else { delta / error };
        }
        Some(sum)
    }
}

/// A number in (−1, 1) that depends on nothing but its index (SplitMix64).
pub(super) fn direction(index: usize, projection: usize) -> f64 {
    let mut z = ((index * PROJECTIONS + projection) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// An item that others may be equal to.
struct Known {
    signature: Signature,
    side: usize,
    item: usize,
    group: usize,
}

/// Groups equal rows, over both models, the source's first. Where multiples are the same, each row
/// has its factor, and zero rows are in no group. A group is of rows that are equal to its first
/// row; an expanded row's group is that of the nearest row of the source, first or not, so that a
/// copy goes where its original went. The expanded model's matches are added to `agreement`.
pub(super) fn cluster(
    sides: &[Option<Items>; 2],
    same: Sameness,
    strategy: Strategy,
    agreement: &mut Agreement,
) -> [Vec<Member>; 2] {
    let scalable = same != Sameness::Equal;
    let lone = sides.iter().any(Option::is_none);
    // Per key: rows in the order of their first projection.
    let mut order: BTreeMap<usize, Vec<(f64, usize)>> = BTreeMap::new();
    let mut known: Vec<Known> = Vec::new();
    // The first row of each group, as a side and a row of it.
    let mut firsts: Vec<(usize, usize)> = Vec::new();
    // Per key: the groups of the source.
    let mut originals: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut widest = 0.0f64;
    let sources = sides[0].as_ref().map_or(0, |items| items.of.len());
    let mut placed: Vec<Option<usize>> = vec![None; sources];
    let by_place = strategy.prefer != Prefer::Nearest;
    let within_heads = sides[0].as_ref().filter(|_| strategy.prefer == Prefer::PlaceInHead);
    let first_heads = within_heads.map(Items::first_heads);
    [0, 1].map(|side| {
        let Some(items) = &sides[side] else { return Vec::new() };
        let signatures = Signature::of_rows(items.rows, same);
        let mut groups = Vec::with_capacity(items.of.len());
        for (item, (index, key)) in items.of.iter().zip(&items.keys).enumerate() {
            let row = items.rows.row(*index);
            let original = sides[0].as_ref().filter(|_| side == 1 && by_place);
            let place = original.and_then(|source| items.place(item, source, &first_heads));
            let at_place = place.and_then(|place| placed[place]);
            let representative = |group: usize| {
                let (side, item) = firsts[group];
                let others = sides[side].as_ref().expect("it has items");
                others.rows.row(others.of[item])
            };
            let drowned = strategy.drop_faint && side == 1 && row.is_zero(UNITS);
            if scalable && row.is_zero(0.0) {
                // It may be the copy of a row so small that rounding took it: of that at its place,
                // or of that of its channel, or of any.
                let taken = |group: &usize| row.equals(&representative(*group), Ratio::ONE, UNITS);
                let small = original.and_then(|source| {
                    let (own, each) = (item % items.per_head, source.per_head);
                    let all = || originals.get(key).into_iter().flatten().copied();
                    let same = |group: &usize| firsts[*group].1 % each == own % each;
                    all().find(|group| same(group) && taken(group)).or_else(|| all().find(taken))
                });
                let found = at_place.filter(taken).or(small);
                groups.push(found.map(|group| (group, Ratio::ONE)));
                continue;
            }
            let signature = signatures[*index];
            let first = signature.value[0];
            widest = widest.max(signature.error[0]);
            let reach = 4.0 * UNITS * widest;
            let order = order.entry(*key).or_default();
            let from = order.partition_point(|(k, _)| *k < first - reach);
            let within = order[from..].iter().take_while(|(k, _)| *k <= first + reach);
            let mut near: Vec<(usize, f64, usize)> = within
                .map(|(_, number)| &known[*number])
                .filter(|other| other.side != side || firsts[other.group] == (side, other.item))
                .filter_map(|other| {
                    let distance = signature.distance(&other.signature)?;
                    Some((other.side, distance, other.group))
                })
                .collect();
            near.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(&b.2)));
            let candidates = at_place.into_iter().chain(near.iter().map(|(.., group)| *group));
            let units = if side == 0 || lone { strategy.merge } else { UNITS };
            let found = candidates.into_iter().find_map(|group| {
                let other = representative(group);
                let ratio = match same {
                    Sameness::Equal => {
                        row.equals(&other, Ratio::ONE, units).then_some(Ratio::ONE)?
                    }
                    Sameness::Multiple => row.ratio(&other, units)?,
                    Sameness::PositiveMultiple => {
                        row.ratio(&other, units).filter(|ratio| ratio.factor > 0.0)?
                    }
                };
                Some((group, ratio))
            });
            if drowned {
                // Only the error of its factor counts: its rounding, in units of the group's row.
                groups.push(found);
                continue;
            }
            if let (Some((group, ratio)), 1) = (found, side) {
                let other = representative(group);
                let period = if items.biased { items.rows.cols() } else { 0 };
                agreement.add(&row, &other, ratio, item, period);
            }
            let (group, ratio) = found.unwrap_or((firsts.len(), Ratio::ONE));
            if found.is_none() {
                firsts.push((side, item));
                if side == 0 {
                    originals.entry(*key).or_default().push(group);
                }
            }
            if side == 0 {
                placed[item] = Some(group);
            }
            // Nothing is nearer to a row that is known already; nor do rows of the expanded model
            // that are in a group attract others.
            let known_already = near.first().is_some_and(|(_, distance, _)| *distance == 0.0);
            if found.is_none() || (side == 0 && !known_already) {
                let at = order.partition_point(|(k, _)| *k < first);
                order.insert(at, (first, known.len()));
                known.push(Known { signature, side, item, group });
            }
            groups.push(Some((group, ratio)));
        }
        groups
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};

    const UNIT: f64 = 1.0 / 256.0;

    fn groups(sides: [Option<&Bounded>; 2], strategy: Strategy) -> [Vec<Option<usize>>; 2] {
        let items = sides.map(|rows| rows.map(Items::of_rows));
        let found = cluster(&items, Sameness::Equal, strategy, &mut Agreement::new(0.0));
        found.map(|side| side.into_iter().map(|m| m.map(|(group, _)| group)).collect())
    }

    fn rows(values: Array2<f64>) -> Bounded {
        Bounded::stored(values, UNIT, 0.0)
    }

    #[test]
    fn of_two_copies_none_goes_to_a_stranger_that_only_one_is_near() {
        // The second is 7.9 units from the first, its copy 8.3.
        let rows = rows(array![[1.0], [1.0446], [1.0], [1.0470]]);
        let by = |strategy: &Strategy| groups([None, Some(&rows)], *strategy)[1].clone();
        let some = |groups: [usize; 4]| groups.map(Some).to_vec();
        assert_eq!(by(&Strategy::LONE[0]), some([0, 0, 0, 1]));
        assert_eq!(by(&Strategy::LONE[1]), some([0, 1, 0, 1]));
    }

    #[test]
    fn channels_are_copied_within_their_heads() {
        let all = rows(Array2::zeros((12, 1)));
        let of = |count: usize, per_head| Items {
            of: (0..count).collect(),
            per_head,
            ..Items::of_rows(&all)
        };
        let place = |(source, expanded): (Items, Items)| -> Vec<usize> {
            let place = |item| expanded.place(item, &source, &None).unwrap();
            (0..expanded.of.len()).map(place).collect()
        };
        assert_eq!(place((of(4, 2), of(9, 3))), [0, 1, 0, 2, 3, 2, 0, 1, 0]);
        assert_eq!(place((of(2, 1), of(5, 1))), [0, 1, 0, 1, 0]);
        assert_eq!(of(2, 1).place(0, &of(0, 1), &None), None);
        // Heads 1 and 2 of the source have the key of the expanded one.
        let source = Items { keys: vec![4, 4, 3, 3, 3, 3], ..of(6, 2) };
        let (expanded, first) = (Items { keys: vec![3; 3], ..of(3, 3) }, source.first_heads());
        let place = |item| expanded.place(item, &source, &Some(first.clone()));
        assert_eq!([0, 1, 2].map(place), [2, 3, 2].map(Some));
        let stranger = Items { keys: vec![5; 3], ..of(3, 3) };
        assert_eq!(stranger.place(0, &source, &Some(first.clone())), None);
    }

    #[test]
    fn a_row_that_rounding_took_is_the_copy_of_a_small_one_that_may_be_it() {
        let groups_of = |source: Array2<f64>, copies: usize, prefer| {
            let mut expanded = rows(Array2::zeros((copies, 2)));
            expanded.variance.fill(1e-4f64.powi(2));
            let source = rows(source);
            let items = [&source, &expanded].map(|rows| {
                let per_head = source.rows();
                Some(Items { per_head, ..Items::of_rows(rows) })
            });
            let strategy = Strategy { prefer, ..Strategy::FIRST };
            let found = cluster(&items, Sameness::Multiple, strategy, &mut Agreement::new(0.0));
            found[1].iter().map(|member| member.map(|(group, _)| group)).collect::<Vec<_>>()
        };
        let small = || array![[1e-4, 0.0], [0.0, 2e-4]];
        assert_eq!(groups_of(small(), 4, Prefer::Place), [0, 1, 0, 1].map(Some));
        assert_eq!(groups_of(small(), 4, Prefer::Nearest), [None; 4]);
        // Of the second no rounding is as large.
        assert_eq!(groups_of(array![[1e-4, 0.0], [0.0, 2.0]], 2, Prefer::Place), [Some(0); 2]);
    }

    #[test]
    fn a_drowned_row_is_held_to_no_group_though_it_counts_in_one() {
        let source = rows(array![[1.0, 2.0]]);
        let mut expanded = rows(array![[1.0, 2.0], [0.05, 0.0]]);
        expanded.variance.row_mut(1).fill(1e-4);
        let held = |drop_faint| {
            let items = [Some(Items::of_rows(&source)), Some(Items::of_rows(&expanded))];
            let mut agreement = Agreement::new(0.0);
            let strategy = Strategy { drop_faint, ..Strategy::FIRST };
            let [_, found] = cluster(&items, Sameness::Multiple, strategy, &mut agreement);
            assert_eq!(found[1].unwrap().0, 0);
            agreement.weight.entries + agreement.bias.entries
        };
        assert_eq!((held(false), held(true)), (4, 2));
    }

    #[test]
    fn a_copy_goes_where_its_original_went_though_another_group_is_nearer() {
        // The second row is taken for the first; the third, which is not, is nearer to it.
        let rows = rows(array![[1.0], [1.0027], [1.0040]]);
        let [source, expanded] = groups([Some(&rows), Some(&rows)], Strategy::FIRST);
        assert_eq!(source, [Some(0), Some(0), Some(1)]);
        assert_eq!(expanded, source);
    }
}
