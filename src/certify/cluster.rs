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

/// How channels are grouped that rounding can hardly tell apart. Every strategy is sound: channels
/// are in one group only if they are equal within their bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strategy {
    /// Units of rounding within which two source channels are one.
    pub merge: f64,
    /// Whether, among several groups that a channel fits, the one at its place in a circular
    /// layout comes first, rather than the nearest.
    pub by_position: bool,
}

impl Strategy {
    /// In the order in which they are tried.
    pub const ALL: [Strategy; 4] = [
        Strategy { merge: 0.5, by_position: false },
        Strategy { merge: 0.5, by_position: true },
        Strategy { merge: UNITS, by_position: false },
        Strategy { merge: UNITS, by_position: true },
    ];
}

/// Rows to be grouped.
pub(super) struct Items<'a> {
    pub rows: &'a Bounded,
    /// For each item its row.
    pub of: Vec<usize>,
    /// Items of different keys are never in one group.
    pub keys: Vec<usize>,
}

impl<'a> Items<'a> {
    /// Every row is an item, all of one key.
    pub fn of_rows(rows: &'a Bounded) -> Self {
        Items { rows, of: (0..rows.rows()).collect(), keys: vec![0; rows.rows()] }
    }
}

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
fn direction(index: usize, projection: usize) -> f64 {
    let mut z = ((index * PROJECTIONS + projection) as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
}

/// The first item of a group.
struct Representative {
    signature: Signature,
    side: usize,
    item: usize,
}

/// Groups equal rows, over both models, the source's first. Where multiples are
/// the same, each row has its factor, and zero rows are in no group. The expanded
/// model's matches are added to `agreement`.
pub(super) fn cluster(
    sides: &[Option<Items>; 2],
    same: Sameness,
    strategy: Strategy,
    agreement: &mut Agreement,
) -> [Vec<Member>; 2] {
    let scalable = same != Sameness::Equal;
    // Per key: representatives in the order of their first projection.
    let mut order: BTreeMap<usize, Vec<(f64, usize)>> = BTreeMap::new();
    let mut known: Vec<Representative> = Vec::new();
    let mut widest = 0.0f64;
    let sources = sides[0].as_ref().map_or(0, |items| items.of.len());
    [0, 1].map(|side| {
        let Some(items) = &sides[side] else { return Vec::new() };
        let signatures = Signature::of_rows(items.rows, same);
        let mut groups = Vec::with_capacity(items.of.len());
        for (item, (index, key)) in items.of.iter().zip(&items.keys).enumerate() {
            let row = items.rows.row(*index);
            if scalable && row.is_zero(0.0) {
                groups.push(None);
                continue;
            }
            let signature = signatures[*index];
            let first = signature.value[0];
            widest = widest.max(signature.error[0]);
            let reach = 4.0 * UNITS * widest;
            let order = order.entry(*key).or_default();
            let from = order.partition_point(|(k, _)| *k < first - reach);
            let near = order[from..].iter().take_while(|(k, _)| *k <= first + reach);
            let mut candidates: Vec<(bool, usize, f64, usize)> = near
                .filter_map(|(_, group)| {
                    let other = &known[*group];
                    let distance = signature.distance(&other.signature)?;
                    let at_place = (side, other.side) == (1, 0)
                        && Some(other.item) == item.checked_rem(sources);
                    Some((!(at_place && strategy.by_position), other.side, distance, *group))
                })
                .collect();
            candidates.sort_by(|a, b| {
                (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)).then(a.3.cmp(&b.3))
            });
            let units = if side == 0 { strategy.merge } else { UNITS };
            let found = candidates.iter().find_map(|(.., group)| {
                let other = &known[*group];
                let others = sides[other.side].as_ref().expect("it has items");
                let other = others.rows.row(others.of[other.item]);
                let ratio = match same {
                    Sameness::Equal => {
                        row.equals(&other, Ratio::ONE, units).then_some(Ratio::ONE)?
                    }
                    Sameness::Multiple => row.ratio(&other, units)?,
                    Sameness::PositiveMultiple => {
                        row.ratio(&other, units).filter(|ratio| ratio.factor > 0.0)?
                    }
                };
                Some((*group, ratio))
            });
            if let (Some((group, ratio)), 1) = (found, side) {
                let other = &known[group];
                let others = sides[other.side].as_ref().expect("it has items");
                let other = others.rows.row(others.of[other.item]);
                agreement.add(&row, &other, ratio, item, items.rows.cols());
            }
            groups.push(Some(found.unwrap_or_else(|| {
                let group = known.len();
                let at = order.partition_point(|(k, _)| *k < first);
                order.insert(at, (first, group));
                known.push(Representative { signature, side, item });
                (group, Ratio::ONE)
            })));
        }
        groups
    })
}
