//! The inside of a sublayer: neurons and heads grouped by what they compute, fan-outs summed.
//!
//! A sublayer writes `Σ_c fan_out_c · value_c(x) + bias`, where channel `c` (a neuron, or one value
//! channel of a head) has a *key* that decides a non-linear factor (a neuron's folded row and bias,
//! a gate's, an attention pattern) and, where there is one, a *linear* factor (`up` row, value
//! row). Channels of both models with equal key and linear factors in one direction form a group.
//! If in every group the expanded fan-outs sum to E times the source's, the sublayers are equal; a
//! group that the source lacks must sum to zero.

use super::agreement::Agreement;
use super::bounded::{Bounded, Ratio, UNITS};
use super::cluster::{Items, Member, Prefer, Sameness, Strategy, cluster};
use super::map::Map;
use super::negligible::{drop_faint, drop_zeros};
use super::pattern::Alike;
use super::products::with_products;
use super::squares::Residual;
use super::writes::{Keys, Writes};
use std::collections::{BTreeMap, BTreeSet};

/// The groups of the channels of both models.
pub(super) struct Groups {
    /// For each source channel.
    pub source: Vec<Member>,
    /// For each expanded channel.
    pub expanded: Vec<Member>,
    /// Number of groups.
    pub count: usize,
}

impl Groups {
    /// For each channel of both models, the source's first, the first that is in its group.
    fn partition(&self) -> Vec<Option<usize>> {
        let mut firsts = BTreeMap::new();
        let members = self.source.iter().chain(&self.expanded).enumerate();
        let first = |(channel, member): (usize, &Member)| {
            member.map(|(group, _)| *firsts.entry(group).or_insert(channel))
        };
        members.map(first).collect()
    }
}

/// The key of each source and of each expanded channel, with the factor that it brings.
pub(super) type KeyOf = [Vec<(usize, Ratio)>; 2];

/// Groups the channels of a sublayer pair; either may be missing, for a sublayer that stands alone.
fn group(
    source: Option<&Writes>,
    expanded: Option<&Writes>,
    (map, modulo_one): (&Map, bool),
    strategy: Strategy,
    agreement: &mut Agreement,
) -> (Groups, KeyOf) {
    let (sides, source_writes) = ([source, expanded], source);
    let keys = key_groups(sides, strategy, agreement);
    let of = sides.map(|side| side.and_then(|w| w.linear.as_ref()));
    let items = [0, 1].map(|side| {
        let keys = keys[side].iter().map(|(key, _)| *key).collect();
        // The constants of values are in the output's bias.
        let (biased, per_head) = match sides[side].map(|writes| &writes.keys) {
            Some(Keys::Patterns(_, channels)) => (false, *channels),
            _ => (true, 1),
        };
        of[side].map(|(rows, of)| Items { rows, of: of.clone(), keys, biased, per_head })
    });
    let [source, expanded] = cluster(&items, Sameness::Multiple, strategy, agreement);
    let mut numbers: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let mut number = |keys: &[(usize, Ratio)], linear: Option<Vec<Member>>| -> Vec<Member> {
        let mut one = |key: usize, direction: usize| {
            let next = numbers.len();
            *numbers.entry((key, direction)).or_insert(next)
        };
        let linear = linear.unwrap_or_else(|| vec![Some((0, Ratio::ONE)); keys.len()]);
        keys.iter()
            .zip(linear)
            .map(|((key, scale), member)| {
                member.map(|(d, ratio)| (one(*key, d), ratio.times(*scale)))
            })
            .collect()
    };
    let mut members =
        [number(&keys[0], of[0].map(|_| source)), number(&keys[1], of[1].map(|_| expanded))];
    let mut count = numbers.len();
    if let ([Some(source), Some(expanded)], true) = (sides, strategy.drop_faint) {
        drop_faint(
            [source, expanded],
            [&keys[0], &keys[1]],
            (map, modulo_one),
            &mut members,
            &mut count,
        );
    }
    for side in [0, 1] {
        if let Some(writes) = sides[side] {
            let copied = source_writes.filter(|_| side == 1).map_or(0.0, |source| {
                map.growth() * source.largest(|channel| source.is_zero(channel, 0.0))
            });
            drop_zeros(writes, copied, &mut members, side, agreement);
        }
    }
    let [source, expanded] = members;
    (Groups { source, expanded, count }, keys)
}

/// Units of rounding within which patterns are looked for, one after the other.
const NEARER: [f64; 4] = [0.5, 1.0, 2.0, 4.0];

/// The group of each channel by its key alone, with the factor that its key brings.
fn key_groups(
    sides: [Option<&Writes>; 2],
    strategy: Strategy,
    agreement: &mut Agreement,
) -> [Vec<(usize, Ratio)>; 2] {
    let rows = sides.map(|side| match side.map(|w| &w.keys) {
        Some(Keys::Rows(rows)) => Some(Items::of_rows(rows)),
        _ => None,
    });
    if rows.iter().any(Option::is_some) {
        let homogeneous = sides.iter().flatten().all(|writes| writes.homogeneous);
        let same = if homogeneous { Sameness::PositiveMultiple } else { Sameness::Equal };
        let groups = cluster(&rows, same, strategy, agreement);
        // Every activation maps zero to zero: a neuron whose row and bias are zero contributes
        // nothing. It may also be the copy of one whose row is so small that rounding took it.
        let nothing = (usize::MAX, Ratio { factor: 0.0, error: 0.0 });
        let is_zero = |side: usize, item: usize| {
            rows[side].as_ref().is_some_and(|items| items.rows.row(item).is_zero(0.0))
        };
        let sources = groups[0].iter().enumerate();
        let small: BTreeSet<usize> = sources
            .filter(|(item, _)| !is_zero(0, *item))
            .filter_map(|(_, member)| Some(member.as_ref()?.0))
            .collect();
        let copied = |item: usize, group: usize| {
            let place = item.checked_rem(groups[0].len());
            let at_place = place.filter(|at| groups[0][*at].is_some_and(|(g, _)| g == group));
            strategy.prefer == Prefer::Place
                && at_place.map_or(small.contains(&group), |original| !is_zero(0, original))
        };
        return [0, 1].map(|side| {
            let member = |(item, group): (usize, &Member)| match group {
                Some(group) if !is_zero(side, item) => *group,
                Some(group) if side == 1 && copied(item, group.0) => *group,
                _ => nothing,
            };
            groups[side].iter().enumerate().map(member).collect()
        });
    }
    let mut known: Vec<Alike> = Vec::new();
    // The group of each of the source's heads.
    let mut placed: Vec<usize> = Vec::new();
    let lone = sides.iter().any(Option::is_none);
    [0, 1].map(|side| {
        let Some(Writes { keys: Keys::Patterns(patterns, each), .. }) = sides[side] else {
            return Vec::new();
        };
        let mut groups = Vec::new();
        for (head, pattern) in patterns.iter().enumerate() {
            let units = if side == 0 || lone { strategy.merge } else { UNITS };
            let mut fit: Vec<usize> =
                (0..known.len()).filter(|g| pattern.equals(&known[*g], units)).collect();
            // Heads whose norms have another ε are not one; but where the expanded model's ε fits
            // nowhere, that is what it is told for.
            let agree = |g: &usize| pattern.epsilons_agree(&known[*g]);
            if side == 0 || lone || fit.iter().any(agree) {
                fit.retain(agree);
            }
            // Of several that rounding does not tell apart, those that are nearest.
            let nearer = |limit: f64| -> Vec<usize> {
                let within = |g: &usize| pattern.equals(&known[*g], limit);
                fit.iter().copied().filter(within).collect()
            };
            if side == 1 && fit.len() > 1 && strategy.prefer != Prefer::Place {
                let nearest = NEARER.into_iter().map(nearer).find(|within| !within.is_empty());
                fit = nearest.unwrap_or(fit);
            }
            let place = head.checked_rem(placed.len()).map(|place| placed[place]);
            let at_place =
                |g: &&usize| side == 1 && strategy.prefer == Prefer::Place && Some(**g) == place;
            let found = fit.iter().find(at_place).or(fit.first()).copied();
            if let (Some(group), 1) = (found, side) {
                pattern.agree(&known[group], head, agreement);
            }
            let mixed = found.is_none() && strategy.products && (side == 1 || lone);
            let found = match mixed {
                true => known.iter().position(|known| pattern.is_mixed(known, head, agreement)),
                false => found,
            };
            let group = found.unwrap_or_else(|| {
                known.push(pattern.into());
                known.len() - 1
            });
            if side == 0 {
                known[group].add(pattern);
                placed.push(group);
            }
            groups.extend(std::iter::repeat_n((group, Ratio::ONE), *each));
        }
        groups
    })
}

/// The largest relative error of a member's factor.
fn factor_error(groups: &Groups) -> f64 {
    let members = groups.source.iter().chain(&groups.expanded).flatten();
    Ratio::largest_error(members.map(|(_, ratio)| ratio))
}

/// The two equations of a sublayer pair: fan-outs group by group, and the constant.
pub(super) struct Equations {
    pub groups: Groups,
    /// What decides the groups, over all their members.
    pub agreement: Agreement,
    pub fan_out: Residual,
    /// Groups whose column is wrong.
    pub wrong_groups: Vec<usize>,
    /// The equations of these groups alone.
    pub wrong_fan_out: Residual,
    /// Whether channels are left out that are not zero.
    pub drops: bool,
    /// Of keys whose linear factors were mixed, the equations of their products.
    pub products: Vec<Residual>,
    pub bias: Residual,
}

impl Equations {
    /// Whether all hold.
    pub fn hold(&self) -> bool {
        self.inside_holds() && self.bias.holds()
    }

    /// Whether all but that of the constant hold.
    pub fn inside_holds(&self) -> bool {
        self.fan_out.holds() && self.agreement.holds()
    }

    /// Whether an expanded or source channel is the only one of its group, and that is wrong.
    pub fn has_lone_channel(&self) -> bool {
        let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
        let members = self.groups.source.iter().chain(&self.groups.expanded).flatten();
        members.for_each(|(group, _)| *sizes.entry(*group).or_default() += 1);
        self.wrong_groups.iter().any(|group| sizes.get(group) == Some(&1))
    }

    /// Every equation.
    pub fn residuals(&self) -> impl Iterator<Item = &Residual> {
        let held = [&self.agreement.weight, &self.agreement.bias, &self.fan_out, &self.bias];
        held.into_iter().chain(&self.products)
    }
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
    let grouped = |strategy| {
        // A pattern is a product: the norm's weight is in both of its factors.
        let patterns = [source, expanded]
            .iter()
            .flatten()
            .any(|writes| matches!(writes.keys, Keys::Patterns(..)));
        let mut agreement = Agreement::new(if patterns { 2.0 * shared } else { shared });
        let (groups, keys) = group(source, expanded, (map, modulo_one), strategy, &mut agreement);
        let found = equations_of((groups, agreement), source, expanded, (map, modulo_one), shared);
        match strategy.products {
            true => with_products(found, &keys, [source, expanded], (map, modulo_one), shared),
            false => found,
        }
    };
    let both = source.is_some() && expanded.is_some();
    let strategies = Strategy::all(both);
    let first = grouped(strategies[0]);
    if first.inside_holds() {
        return first;
    }
    // Perhaps channels that are nearly equal were told apart wrongly.
    let others = strategies[1..].iter().map(|strategy| grouped(*strategy));
    others.into_iter().find(Equations::inside_holds).unwrap_or(first)
}

/// Whether strategies group the channels of wrong groups in other ways, or where none is wrong, any
/// channels: then rounding leaves open which are copies of which, and what does not fit is perhaps
/// only paired wrongly.
pub(super) fn is_ambiguous(
    (source, expanded): (Option<&Writes>, Option<&Writes>),
    (map, modulo_one): (&Map, bool),
    found: &Equations,
) -> bool {
    let both = source.is_some() && expanded.is_some();
    // What stands alone is grouped by limits down to the distance of copies; of those, two.
    let telling = |strategy: &&Strategy| both || strategy.merge >= 4.0;
    let mut partitions = Strategy::all(both).iter().filter(telling).map(|strategy| {
        let mut agreement = Agreement::new(0.0);
        group(source, expanded, (map, modulo_one), *strategy, &mut agreement).0.partition()
    });
    let Some(first) = partitions.next() else { return false };
    let members = found.groups.source.iter().chain(&found.groups.expanded);
    let is_wrong = |member: &Member| match found.wrong_groups.is_empty() {
        true => true,
        false => member.is_some_and(|(group, _)| found.wrong_groups.contains(&group)),
    };
    let wrong: Vec<usize> =
        members.enumerate().filter(|(_, m)| is_wrong(m)).map(|(channel, _)| channel).collect();
    partitions.any(|other| wrong.iter().any(|channel| first[*channel] != other[*channel]))
}

pub(super) fn equations_of(
    (groups, agreement): (Groups, Agreement),
    source: Option<&Writes>,
    expanded: Option<&Writes>,
    (map, modulo_one): (&Map, bool),
    shared: f64,
) -> Equations {
    let sums = |writes: Option<&Writes>, of: &[Member], rows| match writes {
        Some(writes) => writes.sums(of, groups.count),
        None => Bounded::zeros(rows, groups.count),
    };
    let bias = |writes: Option<&Writes>, rows| match writes {
        Some(writes) => writes.bias.clone(),
        None => Bounded::zeros(rows, 1),
    };
    let lhs = sums(expanded, &groups.expanded, map.expanded());
    let rhs = map.image(&sums(source, &groups.source, map.source));
    let shared = shared + map.scale_error + factor_error(&groups);
    // Fan-outs of many copies of one channel may all be rounded to one side.
    let units = [source, expanded].into_iter().flatten().map(|writes| writes.fan_out.unit);
    let rounded = shared + units.fold(0.0, f64::max);
    let (fan_out, (wrong_groups, wrong_fan_out)) = compare(lhs, rhs, modulo_one, rounded);
    let (lhs, rhs) = (bias(expanded, map.expanded()), map.image(&bias(source, map.source)));
    let (bias, _) = compare(lhs, rhs, modulo_one, shared);
    let drops = |writes: Option<&Writes>, of: &[Member]| {
        let mut left_out = of.iter().enumerate().filter(|(_, member)| member.is_none());
        writes.is_some_and(|writes| left_out.any(|(channel, _)| !writes.is_zero(channel, 0.0)))
    };
    let drops = drops(source, &groups.source) || drops(expanded, &groups.expanded);
    let products = Vec::new();
    Equations { groups, agreement, fan_out, wrong_groups, wrong_fan_out, drops, products, bias }
}

/// Compares two matrices; says which columns are wrong, and how these compare. `modulo_one`: up to
/// a constant over the rows of each column.
pub(super) fn compare(
    lhs: Bounded,
    rhs: Bounded,
    modulo_one: bool,
    shared: f64,
) -> (Residual, (Vec<usize>, Residual)) {
    let plain = Residual::of(&lhs, &rhs, shared);
    let none = (Vec::new(), Residual::new(shared));
    if plain.holds() {
        return (plain, none);
    }
    if !modulo_one {
        let wrong = wrong_columns(&lhs, &rhs);
        return (plain, wrong);
    }
    let (lhs, rhs) = (lhs.centre_columns(), rhs.centre_columns());
    let centred = Residual::of(&lhs, &rhs, shared);
    if centred.holds() {
        return (centred, none);
    }
    let wrong = wrong_columns(&lhs, &rhs);
    (if centred.wrong < plain.wrong { centred } else { plain }, wrong)
}

fn wrong_columns(lhs: &Bounded, rhs: &Bounded) -> (Vec<usize>, Residual) {
    let limit = UNITS.powi(2);
    let columns: Vec<usize> = (0..lhs.cols())
        .filter(|c| {
            (0..lhs.rows()).any(|r| {
                let delta = lhs.value[[r, *c]] - rhs.value[[r, *c]];
                let variance = lhs.variance[[r, *c]] + rhs.variance[[r, *c]];
                delta.is_nan() || delta * delta > limit * variance
            })
        })
        .collect();
    let mut residual = Residual::new(0.0);
    for column in &columns {
        residual.add(&lhs.columns(*column, 1), &rhs.columns(*column, 1), 0);
    }
    (columns, residual)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certify::map::Entry;
    use ndarray::Array2;

    #[test]
    fn a_row_of_zeros_may_be_a_copy_of_one_so_small_that_rounding_took_it() {
        let of = |rows: &[f64]| {
            let rows = Array2::from_shape_vec((rows.len(), 1), rows.to_vec()).unwrap();
            let count = rows.nrows();
            Writes::of_neurons(rows, Array2::ones((2, count)), None)
        };
        let keys = |source: &[f64], expanded: &[f64], prefer| {
            let (source, expanded) = (of(source), of(expanded));
            let strategy = Strategy { prefer, ..Strategy::FIRST };
            let sides = [Some(&source), Some(&expanded)];
            let [_, keys] = key_groups(sides, strategy, &mut Agreement::new(0.0));
            keys.iter().map(|(group, ratio)| (*group, ratio.factor)).collect::<Vec<_>>()
        };
        let nothing = (usize::MAX, 0.0);
        let (one, small) = ((0, 1.0), (1, 1.0));
        // At its place, or wherever it went.
        let copies = [1.0, 1e-7, 0.0, 0.0];
        assert_eq!(keys(&[1.0, 1e-7], &copies, Prefer::Place), [one, small, small, small]);
        assert_eq!(keys(&[1.0, 1e-7], &copies, Prefer::Nearest), [one, small, nothing, nothing]);
        // But not at the place of another of zeros.
        let copies = [1.0, 1e-7, 0.0, 1.0, 0.0, 0.0];
        let found = keys(&[1.0, 1e-7, 0.0], &copies, Prefer::Place);
        assert_eq!(found, [one, small, nothing, one, small, nothing]);
    }

    #[test]
    fn a_failure_is_ambiguous_where_rounding_leaves_open_what_is_a_copy() {
        let ambiguous = |second: f64, third: f64| {
            let rows = |rows: [f64; 3]| Array2::from_shape_vec((3, 1), rows.to_vec()).unwrap();
            let fan_outs = |last: f64| ndarray::array![[1.0, 2.0, last], [0.0, 0.0, 0.0]];
            let source = Writes::of_neurons(rows([1.0, second, 2.0]), fan_outs(4.0), None);
            let expanded = Writes::of_neurons(rows([1.0, second, 2.0]), fan_outs(third), None);
            let map = Map {
                source: 2,
                entries: [0, 1].map(|of| Entry::Copy { of, sign: 1.0 }).to_vec(),
                scale: 1.0,
                scale_error: 0.0,
            };
            let sides = (Some(&source), Some(&expanded));
            let found = equations(sides.0, sides.1, &map, false, 0.0);
            assert!(!found.hold());
            is_ambiguous(sides, (&map, false), &found)
        };
        // Where the wrong fan-out is of a neuron that none is near, others do not matter.
        assert!(!ambiguous(3.0, 5.0) && !ambiguous(1.0 + 2e-6, 5.0));
        // A bound of a row is 1e-6.
        assert!(ambiguous(2.0 + 2e-6, 5.0));
    }

    #[test]
    fn the_error_of_factors_is_the_largest_in_units_of_its_factor() {
        let member = |factor, error| Some((0, Ratio { factor, error }));
        let groups = Groups {
            source: vec![None, member(4.0, 1.0)],
            expanded: vec![member(-0.5, 0.25), member(0.0, 9.0)],
            count: 1,
        };
        assert_eq!(factor_error(&groups), 0.5);
    }
}
