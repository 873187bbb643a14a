//! Norms of queries and keys (QK-norm): what a head's rows are behind them.
//!
//! A head's queries `q = R x` become `γ ∘ q/sqrt(|q|²/d + ε) + β` (a LayerNorm removes the mean of
//! the rows of R first). Divided by their size `n = sqrt(Σ R²/d)`, the rows say the same with
//! `ε/n²` for ε. So two heads are equal if the rows so divided, times γ, beside β, have one
//! pattern; if `Σ_i R_i R_iᵀ/(d n²)`, which decides the mean square for every x, is one; and if
//! `ε/n²` is. The last is booked as a condition on ε. The mean square is held group by group: rows
//! that are multiples of one another, whose squares must have the same sum.

use super::agreement::Agreement;
use super::bounded::{Bounded, Ratio, UNITS};
use super::cluster::{Items, Member, Sameness, Strategy, cluster};
use super::side::{Side, unit};
use crate::checkpoint::Dtype;
use crate::error::Result;
use crate::model::{Norm, NormKind};

/// What a head's norm divides by.
pub(super) struct Denominator {
    /// The head's rows divided by their size, `[head_dim, n]`.
    rows: Bounded,
    /// The size of the rows, squared; zero if all are.
    size_squared: f64,
    /// Its relative error.
    error: f64,
    /// The norm's ε.
    eps: f64,
    /// The precision in which ε is added, relative to it.
    eps_unit: f64,
    /// Whether the rows are too small to be told from rounding, so that nothing is known.
    pub blurred: bool,
}

/// An ε that does not fit the rows of a head.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadEpsilon {
    /// 0 for queries, 1 for keys.
    pub which: usize,
    pub expected: f64,
    pub got: f64,
    /// The difference in units of its bound.
    pub units: f64,
}

/// The rounding of a head's rows, relative to their size, above which they are blurred: where they
/// cancel so far that the norm enlarges the rounding of what they are made of, or of f32 where that
/// is finer, so many times; and never more than what could not be told from nothing. Below it what
/// is left is known to as many digits as its bounds say, which are carried through the norm.
fn blurred_from(weight_unit: f64) -> f64 {
    (4096.0 * weight_unit.max(unit(Dtype::F32))).min(1.0 / UNITS)
}

/// The heads of a projection behind their norm: rows `[heads·head_dim, n]`, and what each head's
/// norm divides by. `rows` `[heads·head_dim, n]` hold the weights and the bias; a LayerNorm adds a
/// column for β. `weight_unit` is the unit of rounding of what the rows are made of. Of rows that
/// read what a norm of the stream returns, `outweighed_below` is the mean square, relative to ε,
/// below which it is nothing beside it.
pub(super) fn behind_norm(
    side: &Side,
    norm: &Norm,
    rows: &Bounded,
    head_dim: usize,
    (weight_unit, outweighed_below): (f64, Option<f64>),
) -> Result<(Bounded, Vec<Denominator>)> {
    let gamma = side.gamma(norm, head_dim)?;
    let beta = match (&norm.bias, norm.kind) {
        (Some(bias), _) => Some(side.read(bias)?),
        (None, NormKind::Layer) => Some(Bounded::zeros(head_dim, 1)),
        (None, NormKind::Rms) => None,
    };
    let (mut heads, mut denominators) = (Vec::new(), Vec::new());
    for first in (0..rows.rows()).step_by(head_dim) {
        let mut head = rows.slice(first, head_dim);
        if norm.kind == NormKind::Layer {
            head = head.centre_columns();
        }
        let eps_unit = unit(Dtype::F32).min(side.unit_of_gamma(norm));
        let outweighed = |below| is_outweighed(&head, norm.eps, below);
        let denominator = match outweighed_below.is_some_and(outweighed) {
            true => Denominator::of_eps(head, norm.eps, eps_unit),
            false => Denominator::of(head, norm.eps, eps_unit, weight_unit),
        };
        let mut behind = denominator.rows.clone().times_rows(&gamma);
        if let Some(beta) = &beta {
            behind = behind.beside(beta);
        }
        denominators.push(denominator);
        heads.push(behind);
    }
    Ok((Bounded::stacked(&heads), denominators))
}

/// Whether nothing but ε is left of what the head divides by, within the unit of rounding.
fn is_outweighed(head: &Bounded, eps: f64, unit: f64) -> bool {
    let square: f64 = head.value.iter().map(|v| v * v).sum();
    eps > 0.0 && square * head.cols() as f64 / head.rows() as f64 <= unit * eps
}

impl Denominator {
    /// Of rows that ε outweighs.
    fn of_eps(rows: Bounded, eps: f64, eps_unit: f64) -> Self {
        let rows = rows.times(1.0 / eps.sqrt());
        Denominator { rows, size_squared: 0.0, error: 0.0, eps, eps_unit, blurred: false }
    }

    fn of(mut rows: Bounded, eps: f64, eps_unit: f64, weight_unit: f64) -> Self {
        let channels = rows.rows() as f64;
        let square: f64 = rows.value.iter().map(|v| v * v).sum();
        let noise: f64 = rows.variance.sum();
        let along: f64 = rows.value.iter().zip(&rows.variance).map(|(v, b)| v * v * b).sum();
        let blurred = noise > blurred_from(weight_unit).powi(2) * square;
        // Of Σ R², relative; that of the size is half of it.
        let error = if square > 0.0 { 2.0 * along.sqrt() / square } else { 0.0 };
        if square > 0.0 {
            let size = (square / channels).sqrt();
            rows = rows.times(1.0 / size);
            let shared = error / 2.0;
            let spread = rows.value.mapv(|v| (v * shared) * (v * shared));
            rows.variance += &spread;
        }
        let size_squared = square / channels;
        Denominator { rows, size_squared, error, eps, eps_unit, blurred }
    }

    /// Whether the mean square of `self` is that of `other` for every input.
    pub fn equals(&self, other: &Denominator) -> bool {
        if self.is_copy_of(other) {
            return true;
        }
        if self.blurred || other.blurred {
            return false;
        }
        if self.size_squared == 0.0 || other.size_squared == 0.0 {
            return self.size_squared == other.size_squared;
        }
        let (mine, theirs) = (self.distinct(), other.distinct());
        let mut agreement = Agreement::new(self.error + other.error);
        let groups = cluster(
            &[Some(items(&other.rows, theirs.clone())), Some(items(&self.rows, mine.clone()))],
            Sameness::Multiple,
            Strategy::FIRST,
            &mut agreement,
        );
        let sums = [
            squares(&groups[0], other.rows.rows() as f64),
            squares(&groups[1], self.rows.rows() as f64),
        ];
        let equal = |((a, b), (c, d)): (&(f64, f64), &(f64, f64))| {
            let shared = 2.0 * (self.error + other.error) * a.max(*c);
            // What one of the two lacks is held row by row, below.
            *a == 0.0
                || *c == 0.0
                || (a - c).abs() <= UNITS * (b + d).sqrt() + shared + 1e-13 * a.max(*c)
        };
        agreement.holds()
            && sums[0].iter().zip(&sums[1]).all(equal)
            && self
                .rest_pairs(other, [(&mine, &groups[1], &sums[0]), (&theirs, &groups[0], &sums[1])])
    }

    /// Whether the rows that are in no group of both heads are one by one equal, or nothing.
    fn rest_pairs(&self, other: &Denominator, heads: [Grouped; 2]) -> bool {
        let (mine, mut theirs) = (self.rest(heads[0]), other.rest(heads[1]));
        let is_nothing = |of: &Denominator, row: usize| of.rows.row(row).is_zero(UNITS);
        let mine_pair = mine.into_iter().all(|row| {
            let equal =
                |of: &usize| self.rows.row(row).equals(&other.rows.row(*of), Ratio::ONE, UNITS);
            let found = theirs.iter().position(equal);
            found.map(|place| theirs.remove(place)).is_some() || is_nothing(self, row)
        });
        mine_pair && theirs.into_iter().all(|row| is_nothing(other, row))
    }

    /// The rows that are in no group of the other head, and behind them those that rounding has
    /// drowned.
    fn rest(&self, (of, members, others): Grouped) -> Vec<usize> {
        let is_there = |group: usize| others.get(group).is_some_and(|(sum, _)| *sum > 0.0);
        let rows = of.iter().zip(members);
        let alone = rows.filter(|(_, member)| !member.is_some_and(|(group, _)| is_there(group)));
        let drowned = (0..self.rows.rows()).filter(|row| self.rows.row(*row).is_drowned());
        alone.map(|(row, _)| *row).chain(drowned).collect()
    }

    /// Whether the rows are the other's to the last bit: then rounding is no question.
    fn is_copy_of(&self, other: &Denominator) -> bool {
        self.size_squared == other.size_squared && self.rows.value == other.rows.value
    }

    /// The rows that rounding has not drowned: what it has may be a multiple of any.
    fn distinct(&self) -> Vec<usize> {
        (0..self.rows.rows()).filter(|row| !self.rows.row(*row).is_drowned()).collect()
    }

    /// The ε that the rows of `self` demand, given `other`'s rows and ε, if it is not `self`'s.
    pub fn epsilon(&self, other: &Denominator, which: usize) -> Option<HeadEpsilon> {
        if self.size_squared == 0.0 || other.size_squared == 0.0 {
            return None;
        }
        let ratio = self.size_squared / other.size_squared;
        let error = if self.is_copy_of(other) { 0.0 } else { self.error.hypot(other.error) };
        // Rows that were copied have one size, whatever the order in which it was summed. An error
        // is one of the smaller: beside it the larger is none that rounding explains.
        let ratio = if (ratio - 1.0).abs() <= UNITS * error * ratio.min(1.0) { 1.0 } else { ratio };
        let (expected, got) = (ratio * other.eps, self.eps);
        let units = (got - expected).abs() / (expected.min(got) * (self.eps_unit + error));
        (units > UNITS).then_some(HeadEpsilon { which, expected, got, units })
    }
}

/// Rows that are told apart, their groups, and the sums of the groups of the other head.
type Grouped<'a> = (&'a [usize], &'a [Member], &'a [(f64, f64)]);

fn items(rows: &Bounded, of: Vec<usize>) -> Items<'_> {
    let keys = vec![0; of.len()];
    Items { rows, of, keys, biased: true, per_head: 1 }
}

/// For each group the sum of its members' squared factors, over the head's channels, with the
/// square of its bound.
fn squares(members: &[Member], channels: f64) -> Vec<(f64, f64)> {
    let count = members.iter().flatten().map(|(group, _)| group + 1).max().unwrap_or(0);
    let mut sums = vec![(0.0, 0.0); count];
    for (group, Ratio { factor, error }) in members.iter().flatten() {
        sums[*group].0 += factor * factor / channels;
        sums[*group].1 += (2.0 * factor * error / channels).powi(2);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_a_small_head_is_not_explained_by_the_rounding_of_its_own() {
        let of = |value: f64| {
            let rows = Bounded::stored(ndarray::array![[value], [-value]], 0.0, 0.1);
            Denominator::of(rows, 1e-3, unit(Dtype::F32), 1.0)
        };
        let (small, large, same) = (of(0.5), of(3.0), of(0.55));
        assert!(small.epsilon(&same, 0).is_none() && same.epsilon(&small, 0).is_none());
        assert!(small.epsilon(&large, 0).is_some() && large.epsilon(&small, 0).is_some());
    }

    #[test]
    fn rows_in_one_direction_count_by_their_squares() {
        let of = |rows: [[f64; 2]; 2]| {
            let rows = Bounded::stored(ndarray::arr2(&rows), unit(Dtype::F64), 0.0);
            Denominator::of(rows, 1e-6, unit(Dtype::F32), unit(Dtype::F64))
        };
        // What is one direction is one direction however it is shared out: sizes do not count.
        let [even, uneven, other] =
            [[1.0, 1.0], [1.4, 0.2], [1.2, -0.2]].map(|[a, b]| of([[a, 2.0 * a], [b, 2.0 * b]]));
        let apart = of([[1.0, 2.0], [1.0, 2.1]]);
        assert!(even.equals(&uneven) && uneven.equals(&even) && even.equals(&other));
        assert!(!even.equals(&apart) && !apart.equals(&uneven));
        let crossed = |a: f64, b: f64| of([[a, 0.0], [0.0, b]]);
        assert!(crossed(1.0, 2.0).equals(&crossed(-2.0, -4.0)));
        assert!(!crossed(1.0, 2.0).equals(&crossed(2.0, 1.0)));
        assert!(!crossed(1.0, 2.0).equals(&crossed(1.0, 2.0 + 1e-9)));
    }

    #[test]
    fn a_row_that_only_one_head_tells_from_nothing_is_within_the_rounding_of_one_of_the_other() {
        let of = |small: f64, floor: f64| {
            let value = ndarray::array![[1.0, 2.0], [small, -small]];
            let mut rows = Bounded::stored(value, 1e-9, 0.0);
            rows.variance.row_mut(1).fill(floor * floor);
            Denominator::of(rows, 1e-6, unit(Dtype::F32), 1e-3)
        };
        let same = |one: Denominator, other: Denominator| {
            assert_eq!(one.equals(&other), other.equals(&one));
            one.equals(&other)
        };
        let blurred = || of(1e-4, 2e-5);
        assert!(same(of(1e-4, 1e-9), blurred()) && same(of(2.5e-4, 1e-9), blurred()));
        assert!(!same(of(2.7e-4, 1e-9), blurred()) && !same(of(1e-4, 1e-9), of(0.0, 0.0)));
        // Not even where one number of it is hidden by a large bound.
        let mut hidden = of(-0.5, 1e-9);
        hidden.rows.variance[[1, 0]] = 1.0;
        assert!(!same(of(1e-4, 1e-9), hidden));
    }

    #[test]
    fn rows_are_blurred_at_the_latest_where_nothing_could_be_told_from_them() {
        let (f16, f64) = (unit(Dtype::F16), unit(Dtype::F64));
        assert_eq!([1.0, f16, f64].map(blurred_from), [1.0 / UNITS, 1.0 / UNITS, 2f64.powi(-12)]);
    }
}
