//! Products of factors: what heads and gated neurons compute, whatever basis their factors are in.
//!
//! Channels of one key write `Σ_c fan_out_c ⊗ linear_c`, and a head's pattern is
//! `Σ_c query_c ⊗ key_c` (with rotary positions one such sum for each frequency, of complex
//! numbers). Any invertible matrix between two factors leaves the product as it was: channel by
//! channel nothing is equal then, and the products are.
//!
//! A product blurs: beside the rounding of `n` channels an error in one of them is smaller by up to
//! `√(2n)` than beside its own. So products are compared only where a basis was changed: where two
//! channels or more of a head are equal to none. A mistake in one row is held by the rows
//! themselves.

use super::bounded::{Bounded, Ratio, UNITS};
use super::channels::{Equations, Groups, KeyOf, compare, equations_of};
use super::cluster::{Member, direction};
use super::map::Map;
use super::squares::Residual;
use super::writes::Writes;
use ndarray::{Array2, Zip};
use std::collections::{BTreeMap, BTreeSet};

/// Larger products are not made: it would take seconds.
const MULTIPLICATIONS_LIMIT: usize = 1 << 31;

/// Vectors between which products are compared before they are made.
const PROBES: usize = 4;

/// Units by which a number between two probes may be off: rounding may have a sign in common.
const PROBE_UNITS: f64 = 4.0 * UNITS;

/// The sum of the products of the columns of two factors, `leftᵀ · right`: `[channels, n]` and
/// `[channels, m]` make `[n, m]`.
pub(super) struct Product {
    pub left: Bounded,
    pub right: Bounded,
}

impl Product {
    /// The product with its bounds.
    pub fn matrix(&self) -> Bounded {
        let Product { left, right } = self;
        let squares = |m: &Array2<f64>| m.mapv(|v| v * v);
        let (l, r) = (left.value.t(), squares(&right.value) + &right.variance);
        let variance = left.variance.t().dot(&r) + squares(&left.value).t().dot(&right.variance);
        Bounded { value: l.dot(&right.value), variance }
    }

    /// A product of this shape over no channel.
    fn of_nothing(&self) -> Product {
        let none = |factor: &Bounded| Bounded::zeros(0, factor.cols());
        Product { left: none(&self.left), right: none(&self.right) }
    }

    /// How many multiplications [`Product::matrix`] takes.
    pub fn multiplications(&self) -> usize {
        3 * self.left.rows() * self.left.cols() * self.right.cols()
    }

    /// Whether the two can be equal, by what is between a few vectors: with `centred`, up to
    /// constants over the columns of the left factors.
    pub fn may_equal(&self, other: &Product, centred: bool) -> bool {
        (0..PROBES).all(|probe| {
            let (a, b) = (self.between(probe, centred), other.between(probe, centred));
            let difference = a.0 - b.0;
            difference * difference <= PROBE_UNITS.powi(2) * (a.1 + b.1)
        })
    }

    /// The number between two vectors of signs, and its variance.
    fn between(&self, probe: usize, centred: bool) -> (f64, f64) {
        let signs = |count: usize, salt: usize| -> Vec<f64> {
            (0..count).map(|at| direction(at, 2 * probe + salt).signum()).collect()
        };
        let (mut x, y) = (signs(self.left.cols(), 0), signs(self.right.cols(), 1));
        if centred {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            x.iter_mut().for_each(|x| *x -= mean);
        }
        let along = |m: &Bounded, row: usize, by: &[f64]| {
            let row = m.row(row);
            let terms = row.value.iter().zip(row.variance).zip(by);
            terms.fold((0.0, 0.0), |(sum, spread), ((v, variance), by)| {
                (sum + v * by, spread + variance * by * by)
            })
        };
        (0..self.left.rows()).fold((0.0, 0.0), |(sum, spread), row| {
            let (l, r) = (along(&self.left, row, &x), along(&self.right, row, &y));
            (sum + l.0 * r.0, spread + l.0 * l.0 * r.1 + l.1 * (r.0 * r.0 + r.1))
        })
    }
}

/// The same with products for keys whose linear factors were mixed, if these hold.
pub(super) fn with_products(
    found: Equations,
    keys: &KeyOf,
    sides: [Option<&Writes>; 2],
    target: (&Map, bool),
    shared: f64,
) -> Equations {
    let mixed = mixed_keys((&found.groups, keys), &found.wrong_groups, sides);
    if mixed.is_empty() {
        return found;
    }
    let Some(products) = product_residuals(sides, keys, &mixed, target, shared) else {
        return found;
    };
    let Equations { mut groups, agreement, .. } = found;
    let Groups { source, expanded, .. } = &mut groups;
    for (members, keys) in [(source, &keys[0]), (expanded, &keys[1])] {
        for (member, (key, _)) in members.iter_mut().zip(keys) {
            if mixed.contains(key) {
                *member = None;
            }
        }
    }
    let rest = equations_of((groups, agreement), sides[0], sides[1], target, shared);
    Equations { products, ..rest }
}

/// The keys of groups whose fan-outs are wrong and whose linear factors were mixed.
fn mixed_keys(
    (groups, keys): (&Groups, &KeyOf),
    wrong_groups: &[usize],
    sides: [Option<&Writes>; 2],
) -> BTreeSet<usize> {
    let (side, members) = match sides {
        [Some(_), None] => (0, &groups.source),
        _ => (1, &groups.expanded),
    };
    let Some(writes) = sides[side] else { return BTreeSet::new() };
    // A channel is strange that is equal to none of the source's, or of what stands alone to no
    // other. All neurons of a key are as if of one head.
    let others = match sides {
        [Some(_), Some(_)] => &groups.source,
        _ => members,
    };
    let mut sizes: BTreeMap<usize, usize> = BTreeMap::new();
    others.iter().flatten().for_each(|(group, _)| *sizes.entry(*group).or_default() += 1);
    let alone = usize::from(std::ptr::eq(others, members));
    let is_strange = |member: &Member| {
        member.is_some_and(|(group, _)| sizes.get(&group).is_none_or(|size| *size <= alone))
    };
    let mut strange: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    let each = match writes.channels_of_a_head() {
        1 => members.len(),
        each => each,
    };
    for (channel, (member, (key, _))) in members.iter().zip(&keys[side]).enumerate() {
        if is_strange(member) {
            *strange.entry((*key, channel / each)).or_default() += 1;
        }
    }
    let mixed: BTreeSet<usize> =
        strange.iter().filter(|(_, count)| **count >= 2).map(|((key, _), _)| *key).collect();
    let is_wrong = |member: &Member| {
        member.is_some_and(|(group, _)| wrong_groups.binary_search(&group).is_ok())
    };
    let members = groups.source.iter().zip(&keys[0]).chain(groups.expanded.iter().zip(&keys[1]));
    let wrong = members.filter(|(member, _)| is_wrong(member)).map(|(_, (key, _))| *key);
    wrong.filter(|key| mixed.contains(key)).collect()
}

/// What the channels of a key write: `[hidden, n]`.
fn written(writes: &Writes, keys: &[(usize, Ratio)], key: usize) -> Option<Product> {
    let (rows, of) = writes.linear.as_ref()?;
    let channels: Vec<usize> = (0..keys.len()).filter(|channel| keys[*channel].0 == key).collect();
    let rows_of: Vec<usize> = channels.iter().map(|channel| of[*channel]).collect();
    let mut factors = Bounded::ones(channels.len());
    for (place, channel) in channels.iter().enumerate() {
        let Ratio { factor, error } = keys[*channel].1;
        factors.value[[place, 0]] = factor;
        factors.variance[[place, 0]] = error * error;
    }
    let left = writes.held_fan_outs(&channels).transposed();
    Some(Product { left, right: rows.pick(&rows_of).times_rows(&factors) })
}

/// The equations of mixed keys, each over the products of all its channels; `None` if one of them
/// cannot hold or is too large.
fn product_residuals(
    sides: [Option<&Writes>; 2],
    keys: &KeyOf,
    mixed: &BTreeSet<usize>,
    (map, modulo_one): (&Map, bool),
    shared: f64,
) -> Option<Vec<Residual>> {
    let mut multiplications = 0;
    let mut residuals = Vec::new();
    for key in mixed {
        let product = |side: usize| sides[side].map(|writes| written(writes, &keys[side], *key));
        let image = |product: Product| Product {
            left: map.image(&product.left.transposed()).transposed(),
            ..product
        };
        let (source, expanded) = match (product(0), product(1)) {
            (Some(source), Some(expanded)) => (image(source?), expanded?),
            (Some(source), None) => {
                let source = image(source?);
                let nothing = source.of_nothing();
                (source, nothing)
            }
            (None, expanded) => {
                let expanded = expanded??;
                (expanded.of_nothing(), expanded)
            }
        };
        multiplications += source.multiplications() + expanded.multiplications();
        if multiplications > MULTIPLICATIONS_LIMIT || !source.may_equal(&expanded, modulo_one) {
            return None;
        }
        let key_error = Ratio::largest_error(keys.iter().flatten().map(|(_, ratio)| ratio));
        let shared = shared + map.scale_error + key_error;
        let (residual, _) = compare(expanded.matrix(), source.matrix(), modulo_one, shared);
        if !residual.holds() {
            return None;
        }
        residuals.push(residual);
    }
    Some(residuals)
}

/// Both matrices, if they are equal within `units` and not too large to be made.
pub(super) fn equal_matrices(
    mine: &Product,
    theirs: &Product,
    units: f64,
) -> Option<(Bounded, Bounded)> {
    let multiplications = mine.multiplications() + theirs.multiplications();
    if multiplications > MULTIPLICATIONS_LIMIT || !mine.may_equal(theirs, false) {
        return None;
    }
    let (mine, theirs) = (mine.matrix(), theirs.matrix());
    let limit = units * units;
    let mut equal = true;
    Zip::from(&mine.value).and(&theirs.value).and(&mine.variance).and(&theirs.variance).for_each(
        |a, b, spread, other| {
            let difference = a - b;
            equal &= difference * difference <= limit * (spread + other);
        },
    );
    equal.then_some((mine, theirs))
}

#[cfg(test)]
mod tests {
    use super::super::channels::equations;
    use super::super::map::Entry;
    use super::super::writes::Keys;
    use super::*;
    use ndarray::array;

    /// Gated neurons, all with one gate: linear inputs, and fan-outs in two channels.
    fn gated(linear: Array2<f64>, fan_out: Array2<f64>) -> Writes {
        let count = linear.nrows();
        let neurons = Writes::of_neurons(Array2::ones((count, 1)), fan_out, None);
        let linear = Some((Bounded::stored(linear, 1e-9, 0.0), (0..count).collect()));
        Writes { linear, ..neurons }
    }

    fn proven(source: &Writes, expanded: &Writes) -> bool {
        let entries = [0, 1].map(|of| Entry::Copy { of, sign: 1.0 }).to_vec();
        let map = Map { source: 2, entries, scale: 1.0, scale_error: 0.0 };
        let found = equations(Some(source), Some(expanded), &map, false, 0.0);
        assert!(matches!(source.keys, Keys::Rows(_)));
        found.hold()
    }

    #[test]
    fn linear_factors_may_be_mixed_and_their_product_may_not_change() {
        let linear = array![[1.0, 2.0, 3.0], [-1.0, 0.5, 4.0]];
        let fan_out = array![[2.0, -1.0], [0.25, 3.0]];
        let source = gated(linear.clone(), fan_out.clone());
        // B = [[1, 0.5], [-0.7, 0.65]] and its inverse.
        let (basis, inverse) = (array![[1.0, 0.5], [-0.7, 0.65]], array![[0.65, -0.5], [0.7, 1.0]]);
        let mixed = (basis.dot(&linear), fan_out.dot(&inverse));
        assert!(proven(&source, &gated(mixed.0.clone(), mixed.1.clone())));
        for at in [(0, 0), (1, 2)] {
            let mut wrong = mixed.0.clone();
            wrong[at] *= 1.0 + 1e-6;
            assert!(!proven(&source, &gated(wrong, mixed.1.clone())), "{at:?}");
        }
    }

    #[test]
    fn one_row_that_is_wrong_is_no_other_basis() {
        let (linear, fan_out) = (array![[1.0, 2.0], [3.0, -1.0]], array![[2.0, 1.0], [0.25, 3.0]]);
        let keys = [vec![(0, Ratio::ONE); 2], vec![(0, Ratio::ONE); 2]];
        let member = |group: usize| Some((group, Ratio::ONE));
        let mixed = |expanded: [usize; 2]| {
            let members = (vec![member(0), member(1)], expanded.map(member).to_vec());
            let groups = Groups { source: members.0, expanded: members.1, count: 4 };
            let both = gated(linear.clone(), fan_out.clone());
            mixed_keys((&groups, &keys), &[0, 1, 2, 3], [Some(&both), Some(&both)])
        };
        assert_eq!(mixed([0, 2]), BTreeSet::new());
        assert_eq!(mixed([2, 3]), BTreeSet::from([0]));
    }

    #[test]
    fn probes_tell_products_apart_and_take_equal_ones_for_equal() {
        let factor = |rows: Array2<f64>| Bounded::stored(rows, 1e-9, 0.0);
        let left = factor(array![[1.0, -2.0, 0.5], [0.3, 1.0, 7.0]]);
        let product = |right: f64| Product {
            left: left.clone(),
            right: factor(array![[1.0, right], [2.0, -1.0]]),
        };
        assert!(product(3.0).may_equal(&product(3.0), false));
        assert!(!product(3.0).may_equal(&product(3.001), false));
        assert_eq!(product(3.0).matrix().value[[2, 1]], 0.5 * 3.0 - 7.0);
    }
}
