//! The inside of a sublayer: neurons and heads grouped by what they compute, fan-outs summed.
//!
//! A sublayer writes `Σ_c fan_out_c · value_c(x) + bias`, where channel `c` (a neuron, or one value
//! channel of a head) has a *key* that decides a non-linear factor (a neuron's folded row and bias,
//! a gate's, an attention pattern) and, where there is one, a *linear* factor (`up` row, value
//! row). Channels of both models with equal key and linear factors in one direction form a group.
//! If in every group the expanded fan-outs sum to E times the source's, the sublayers are equal; a
//! group that the source lacks must sum to zero.

use super::bounded::{Bounded, Row};
use super::map::Map;
use super::pattern::Pattern;
use super::squares::Residual;
use std::collections::BTreeMap;

/// What a sublayer writes, channel by channel.
pub(super) struct Writes {
    pub keys: Keys,
    /// Linear factors and, for each channel, its row of them.
    pub linear: Option<(Bounded, Vec<usize>)>,
    /// `[hidden, channels]`.
    pub fan_out: Bounded,
    /// The constant that is written: `[hidden, 1]`.
    pub bias: Bounded,
}

/// What decides a channel's non-linear factor.
pub(super) enum Keys {
    /// One folded row with its bias for each channel.
    Rows(Bounded),
    /// One pattern for each `n` channels.
    Patterns(Vec<Pattern>, usize),
}

/// The groups of the channels of both models.
pub(super) struct Groups {
    /// For each source channel its group and factor; none if it contributes nothing.
    pub source: Vec<Option<(usize, f64)>>,
    /// For each expanded channel.
    pub expanded: Vec<Option<(usize, f64)>>,
    /// Number of groups.
    pub count: usize,
}

/// Groups the channels of a sublayer pair; either may be missing, for a sublayer that stands alone.
pub(super) fn group(source: Option<&Writes>, expanded: Option<&Writes>) -> Groups {
    let sides = [source, expanded];
    let keys = key_groups(sides);
    let linear = linear_groups(sides);
    let mut numbers: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let [source, expanded] = [0, 1].map(|side| {
        let Some(writes) = sides[side] else { return Vec::new() };
        let channel = |c: usize| {
            let (direction, factor) = match &linear[side] {
                Some(groups) => groups[c]?,
                None => (0, 1.0),
            };
            let next = numbers.len();
            let group = *numbers.entry((keys[side][c], direction)).or_insert(next);
            Some((group, factor))
        };
        (0..writes.fan_out.cols()).map(channel).collect()
    });
    Groups { source, expanded, count: numbers.len() }
}

fn key_groups(sides: [Option<&Writes>; 2]) -> [Vec<usize>; 2] {
    let rows = sides.map(|side| match side.map(|w| &w.keys) {
        Some(Keys::Rows(rows)) => Some(rows),
        _ => None,
    });
    if rows.iter().any(Option::is_some) {
        let groups = cluster(rows, false);
        return groups.map(|side| side.into_iter().map(|g| g.map_or(0, |g| g.0)).collect());
    }
    let mut representatives: Vec<&Pattern> = Vec::new();
    sides.map(|side| {
        let Some(Writes { keys: Keys::Patterns(patterns, each), .. }) = side else {
            return Vec::new();
        };
        let mut groups = Vec::new();
        for pattern in patterns {
            let known = representatives.iter().position(|other| pattern.equals(other));
            let group = known.unwrap_or_else(|| {
                representatives.push(pattern);
                representatives.len() - 1
            });
            groups.extend(std::iter::repeat_n(group, *each));
        }
        groups
    })
}

type RowGroups = Vec<Option<(usize, f64)>>;

fn linear_groups(sides: [Option<&Writes>; 2]) -> [Option<RowGroups>; 2] {
    let linear = sides.map(|side| side.and_then(|w| w.linear.as_ref()));
    let groups = cluster(linear.map(|l| l.map(|(rows, _)| rows)), true);
    let mut groups = groups.into_iter();
    linear.map(|l| {
        let rows = groups.next().expect("one per side");
        l.map(|(_, of)| of.iter().map(|row| rows[*row]).collect())
    })
}

/// Projections by which equal rows are found.
const PROJECTIONS: usize = 8;

/// A row's projections on fixed directions, and their rounding.
struct Signature {
    value: [f64; PROJECTIONS],
    error: [f64; PROJECTIONS],
}

impl Signature {
    /// `scalable`: of the row's direction, up to its sign.
    fn of(row: &Row, scalable: bool) -> Signature {
        let mut value = [0.0; PROJECTIONS];
        let mut error = [0.0; PROJECTIONS];
        for (i, (v, variance)) in row.value.iter().zip(row.variance).enumerate() {
            for p in 0..PROJECTIONS {
                let direction = direction(i, p);
                value[p] += v * direction;
                error[p] += variance * direction * direction;
            }
        }
        let norm = if scalable { row.value.dot(&row.value).sqrt() } else { 1.0 };
        for p in 0..PROJECTIONS {
            value[p] = if scalable { value[p].abs() / norm } else { value[p] };
            error[p] = error[p].sqrt() / norm;
        }
        Signature { value, error }
    }

    /// The distance in units of rounding; `None` if the two cannot be of equal rows.
    fn distance(&self, other: &Signature) -> Option<f64> {
        let mut sum = 0.0;
        for p in 0..PROJECTIONS {
            let delta = (self.value[p] - other.value[p]).abs();
            let error = self.error[p] + other.error[p] + f64::EPSILON * self.value[p].abs();
            if delta > 2.0 * super::bounded::UNITS * error {
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

/// Groups equal rows, over both models, the source's first. With `scalable`, rows that are
/// multiples of one another are one group, each with its factor, and zero rows are in none.
pub(super) fn cluster(sides: [Option<&Bounded>; 2], scalable: bool) -> [RowGroups; 2] {
    // Representatives, in the order of their first projection.
    let mut order: Vec<(f64, usize)> = Vec::new();
    let mut representatives: Vec<(Signature, usize, usize)> = Vec::new();
    let mut widest = 0.0f64;
    [0, 1].map(|side| {
        let Some(rows) = sides[side] else { return Vec::new() };
        let mut groups = Vec::with_capacity(rows.rows());
        for index in 0..rows.rows() {
            let row = rows.row(index);
            if scalable && row.is_zero() {
                groups.push(None);
                continue;
            }
            let signature = Signature::of(&row, scalable);
            let key = signature.value[0];
            widest = widest.max(signature.error[0] + f64::EPSILON * key.abs());
            let reach = 4.0 * super::bounded::UNITS * widest;
            let from = order.partition_point(|(k, _)| *k < key - reach);
            let near = order[from..].iter().take_while(|(k, _)| *k <= key + reach);
            let mut candidates: Vec<(f64, usize)> = near
                .filter_map(|(_, group)| {
                    Some((signature.distance(&representatives[*group].0)?, *group))
                })
                .collect();
            candidates.sort_by(|a, b| a.0.total_cmp(&b.0));
            let found = candidates.iter().find_map(|(_, group)| {
                let (_, side, index) = representatives[*group];
                let other = sides[side].expect("it has rows").row(index);
                let factor = match scalable {
                    true => row.ratio(&other)?,
                    false => row.equals(&other, 1.0).then_some(1.0)?,
                };
                Some((*group, factor))
            });
            groups.push(Some(found.unwrap_or_else(|| {
                let group = representatives.len();
                let at = order.partition_point(|(k, _)| *k < key);
                order.insert(at, (key, group));
                representatives.push((signature, side, index));
                (group, 1.0)
            })));
        }
        groups
    })
}

/// The fan-outs of each group summed: `[hidden, groups]`.
pub(super) fn group_sums(
    fan_out: &Bounded,
    groups: &[Option<(usize, f64)>],
    count: usize,
) -> Bounded {
    let mut sums = Bounded::zeros(fan_out.rows(), count);
    for row in 0..fan_out.rows() {
        let (value, variance) = (fan_out.value.row(row), fan_out.variance.row(row));
        let mut sum = sums.value.row_mut(row);
        let mut spread = sums.variance.row_mut(row);
        for (c, group) in groups.iter().enumerate() {
            if let Some((group, factor)) = group {
                sum[*group] += factor * value[c];
                spread[*group] += factor * factor * variance[c];
            }
        }
    }
    sums
}

/// The two equations of a sublayer pair: fan-outs group by group, and the constant.
pub(super) struct Equations {
    pub groups: Groups,
    pub fan_out: Residual,
    /// Groups whose column is wrong.
    pub wrong_groups: Vec<usize>,
    pub bias: Residual,
}

/// Holds what two sublayers write against each other. `modulo_one`: up to a constant over the
/// channels.
pub(super) fn equations(
    source: Option<&Writes>,
    expanded: Option<&Writes>,
    map: &Map,
    modulo_one: bool,
    shared: f64,
) -> Equations {
    let groups = group(source, expanded);
    let sums = |writes: Option<&Writes>, of: &[Option<(usize, f64)>], rows| match writes {
        Some(writes) => group_sums(&writes.fan_out, of, groups.count),
        None => Bounded::zeros(rows, groups.count),
    };
    let bias = |writes: Option<&Writes>, rows| match writes {
        Some(writes) => writes.bias.clone(),
        None => Bounded::zeros(rows, 1),
    };
    let lhs = sums(expanded, &groups.expanded, map.expanded());
    let rhs = map.image(&sums(source, &groups.source, map.source));
    let shared = shared + map.scale_error;
    let (fan_out, wrong_groups) = compare(lhs, rhs, modulo_one, shared);
    let (lhs, rhs) = (bias(expanded, map.expanded()), map.image(&bias(source, map.source)));
    let (bias, _) = compare(lhs, rhs, modulo_one, shared);
    Equations { groups, fan_out, wrong_groups, bias }
}

fn compare(lhs: Bounded, rhs: Bounded, modulo_one: bool, shared: f64) -> (Residual, Vec<usize>) {
    let plain = Residual::of(&lhs, &rhs, shared);
    if plain.holds() || !modulo_one {
        let wrong = wrong_columns(&lhs, &rhs);
        return (plain, wrong);
    }
    let (lhs, rhs) = (lhs.centre_columns(), rhs.centre_columns());
    let centred = Residual::of(&lhs, &rhs, shared);
    let wrong = wrong_columns(&lhs, &rhs);
    let better = centred.holds() || centred.wrong < plain.wrong;
    (if better { centred } else { plain }, wrong)
}

fn wrong_columns(lhs: &Bounded, rhs: &Bounded) -> Vec<usize> {
    let limit = super::bounded::UNITS.powi(2);
    (0..lhs.cols())
        .filter(|c| {
            (0..lhs.rows()).any(|r| {
                let delta = lhs.value[[r, *c]] - rhs.value[[r, *c]];
                let variance = lhs.variance[[r, *c]] + rhs.variance[[r, *c]];
                delta.is_nan() || delta * delta > limit * variance
            })
        })
        .collect()
}
