//! Numbers that carry their rounding bound.
//!
//! A stored number `v` is known to `b = u·|v|`; sums and products carry bounds on in quadrature.
//! A residual is then judged in units of its own bound, with no tolerance to choose per operation.

use super::floors::Floors;
use ndarray::{Array1, Array2, ArrayView1, Axis, Zip};

/// A matrix of numbers, each with the variance of its rounding error (the bound, squared).
#[derive(Clone, Debug)]
pub(super) struct Bounded {
    pub value: Array2<f64>,
    pub variance: Array2<f64>,
}

/// Numbers as stored: the bound is `unit·|v|`, and never below the floor of its row and column.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    pub value: Array2<f64>,
    pub unit: f64,
    pub floors: Floors,
}

impl Stored {
    /// The bound of the number `value` at a place, squared.
    #[inline]
    pub fn variance(&self, (row, col): (usize, usize), value: f64) -> f64 {
        let bound = (self.unit * value.abs()).max(self.floors.at(row, col));
        bound * bound
    }

    /// With the bounds written out.
    pub fn bounded(self) -> Bounded {
        let mut variance = Array2::zeros(self.value.dim());
        Zip::indexed(&mut variance)
            .and(&self.value)
            .for_each(|at, variance, value| *variance = self.variance(at, *value));
        Bounded { value: self.value, variance }
    }

    /// `self · vector` (a matrix of one column).
    pub fn apply(&self, vector: &Bounded) -> Bounded {
        let mut product = Bounded::zeros(self.value.nrows(), 1);
        Zip::indexed(self.value.rows())
            .and(product.value.column_mut(0))
            .and(product.variance.column_mut(0))
            .for_each(|i, row, value, variance| {
                for (j, w) in row.iter().enumerate() {
                    let (x, spread) = (vector.value[[j, 0]], vector.variance[[j, 0]]);
                    *value += w * x;
                    *variance += self.variance((i, j), *w) * x * x + w * w * spread;
                }
            });
        product
    }
}

impl Bounded {
    /// Stored numbers: the bound is `unit·|v|`, and never below `floor`.
    #[cfg(test)]
    pub fn stored(value: Array2<f64>, unit: f64, floor: f64) -> Self {
        let floors = Floors::even(value.nrows(), value.ncols(), floor);
        Stored { value, unit, floors }.bounded()
    }

    /// Zeros that are known exactly.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Bounded { value: Array2::zeros((rows, cols)), variance: Array2::zeros((rows, cols)) }
    }

    /// A column of ones that are known exactly.
    pub fn ones(rows: usize) -> Self {
        Bounded { value: Array2::ones((rows, 1)), variance: Array2::zeros((rows, 1)) }
    }

    pub fn rows(&self) -> usize {
        self.value.nrows()
    }

    pub fn cols(&self) -> usize {
        self.value.ncols()
    }

    /// Multiplies all by an exactly known number.
    pub fn times(mut self, factor: f64) -> Self {
        if factor != 1.0 {
            self.value *= factor;
            self.variance *= factor * factor;
        }
        self
    }

    /// Multiplies all by a factor with its error.
    pub fn scaled(&self, Ratio { factor, error }: Ratio) -> Self {
        let spread = self.value.mapv(|v| (error * v).powi(2));
        Bounded {
            value: &self.value * factor,
            variance: &self.variance * (factor * factor) + spread,
        }
    }

    /// The sum with a matrix of the same shape.
    pub fn plus(mut self, other: &Bounded) -> Self {
        self.value += &other.value;
        self.variance += &other.variance;
        self
    }

    /// Adds a row to row `index`.
    pub fn add_row(&mut self, index: usize, row: &Row) {
        let mut value = self.value.row_mut(index);
        value += &row.value;
        let mut variance = self.variance.row_mut(index);
        variance += &row.variance;
    }

    /// Removes the mean of every row.
    pub fn centre_rows(mut self) -> Self {
        let count = self.cols() as f64;
        Zip::from(self.value.rows_mut()).and(self.variance.rows_mut()).for_each(
            |mut values, mut variances| {
                let mean = values.sum() / count;
                let shared = variances.sum() / (count * count);
                values -= mean;
                variances += shared;
            },
        );
        self
    }

    /// Removes the mean of every column.
    pub fn centre_columns(mut self) -> Self {
        let count = self.rows() as f64;
        let mean = self.value.sum_axis(Axis(0)) / count;
        let shared = self.variance.sum_axis(Axis(0)) / (count * count);
        self.value -= &mean;
        self.variance += &shared;
        self
    }

    /// The transposed matrix.
    pub fn transposed(self) -> Self {
        let turn = |m: Array2<f64>| m.reversed_axes().as_standard_layout().into_owned();
        Bounded { value: turn(self.value), variance: turn(self.variance) }
    }

    /// The rows from `first` on, `count` of them.
    pub fn slice(&self, first: usize, count: usize) -> Bounded {
        let range = ndarray::s![first..first + count, ..];
        Bounded {
            value: self.value.slice(range).to_owned(),
            variance: self.variance.slice(range).to_owned(),
        }
    }

    /// These rows, in this order.
    pub fn pick(&self, rows: &[usize]) -> Bounded {
        Bounded {
            value: self.value.select(Axis(0), rows),
            variance: self.variance.select(Axis(0), rows),
        }
    }

    /// The columns from `first` on, `count` of them.
    pub fn columns(&self, first: usize, count: usize) -> Bounded {
        let range = ndarray::s![.., first..first + count];
        Bounded {
            value: self.value.slice(range).to_owned(),
            variance: self.variance.slice(range).to_owned(),
        }
    }

    /// These columns to the left of others with the same number of rows.
    pub fn beside(&self, right: &Bounded) -> Bounded {
        let join = |a: &Array2<f64>, b: &Array2<f64>| {
            ndarray::concatenate(Axis(1), &[a.view(), b.view()]).expect("equal row counts")
        };
        Bounded {
            value: join(&self.value, &right.value),
            variance: join(&self.variance, &right.variance),
        }
    }

    /// Matrices with equally many columns, one below the other. There must be one.
    pub fn stacked(parts: &[Bounded]) -> Bounded {
        let stack = |part: fn(&Bounded) -> &Array2<f64>| {
            let views: Vec<_> = parts.iter().map(|p| part(p).view()).collect();
            ndarray::concatenate(Axis(0), &views).expect("equal column counts")
        };
        Bounded { value: stack(|p| &p.value), variance: stack(|p| &p.variance) }
    }

    /// `diag(factors) · self`: each row times its factor, `[rows, 1]`.
    pub fn times_rows(mut self, factors: &Bounded) -> Bounded {
        for row in 0..self.rows() {
            let (factor, spread) = (factors.value[[row, 0]], factors.variance[[row, 0]]);
            let mut values = self.value.row_mut(row);
            let mut variances = self.variance.row_mut(row);
            Zip::from(&mut variances).and(&values).for_each(|variance, value| {
                *variance = *variance * factor * factor + value * value * spread;
            });
            values *= factor;
        }
        self
    }

    /// One row with its variances.
    pub fn row(&self, index: usize) -> Row<'_> {
        Row { value: self.value.row(index), variance: self.variance.row(index) }
    }

    /// The mean over the rows, as one row.
    pub fn mean_row(&self) -> (Array1<f64>, Array1<f64>) {
        let count = self.rows() as f64;
        (self.value.sum_axis(Axis(0)) / count, self.variance.sum_axis(Axis(0)) / (count * count))
    }
}

/// A row of a [`Bounded`].
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub value: ArrayView1<'a, f64>,
    pub variance: ArrayView1<'a, f64>,
}

/// Residuals below this many units of their bound are rounding, above it they are not: bounds add
/// in quadrature, so 8 is eight standard deviations of the most pessimistic rounding.
pub const UNITS: f64 = 8.0;

impl Row<'_> {
    /// Whether every entry is zero within `units` of its bound.
    pub fn is_zero(&self, units: f64) -> bool {
        let limit = units * units;
        self.value.iter().zip(self.variance).all(|(v, variance)| v * v <= limit * variance)
    }

    /// How many numbers it has.
    pub fn len(&self) -> usize {
        self.value.len()
    }

    /// Its length.
    pub fn length(&self) -> f64 {
        self.value.dot(&self.value).sqrt()
    }

    /// The length of its bounds.
    pub fn bound(&self) -> f64 {
        self.variance.sum().sqrt()
    }

    /// Whether it is no longer than its rounding may be, though some entries may be larger.
    pub fn is_drowned(&self) -> bool {
        self.length() <= UNITS * self.bound()
    }

    /// Whether every entry is as small as its bound, and not all are zero.
    pub fn is_rounding(&self) -> bool {
        self.is_zero(UNITS) && !self.is_zero(0.0)
    }

    /// The factor `c` for which `self = c·other` within `units` of the bounds, if there is one.
    /// Of an `other` that cannot be told from zero it can only be 1: what rounding has left of a
    /// row may be a multiple of any.
    pub fn ratio(&self, other: &Row, units: f64) -> Option<Ratio> {
        let square = other.value.dot(&other.value);
        if square == 0.0 {
            return None;
        }
        let along = other.value.iter().zip(other.variance).map(|(v, variance)| v * v * variance);
        if UNITS * along.sum::<f64>().sqrt() >= square {
            return self.equals(other, Ratio::ONE, units).then_some(Ratio::ONE);
        }
        let ratio = self.fitted(other, square);
        // Where no factor is known, a copy is as good as any multiple.
        if !ratio.is_known() && self.equals(other, Ratio::ONE, units) {
            return Some(Ratio::ONE);
        }
        self.equals(other, ratio, units).then_some(ratio)
    }

    /// The factor that fits `self = c·other` best. `square` is that of `other`, which is not zero.
    fn fitted(&self, other: &Row, square: f64) -> Ratio {
        let own = self.value.dot(&self.value) + self.variance.sum();
        let weights = Weights::new(own, square);
        let mut fit = [0.0; 4];
        for i in 0..self.value.len() {
            let (own, other) =
                ((self.value[i], self.variance[i]), (other.value[i], other.variance[i]));
            let terms = weights.terms(own, other);
            fit.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term);
        }
        Ratio::fitted(fit)
    }

    /// Whether `self = ratio·other` within `units` of the bounds.
    pub fn equals(&self, other: &Row, ratio: Ratio, units: f64) -> bool {
        let limit = units * units;
        let Ratio { factor, error } = ratio;
        (0..self.value.len()).all(|i| {
            let difference = self.value[i] - factor * other.value[i];
            let variance = self.variance[i]
                + factor * factor * other.variance[i]
                + (error * other.value[i]).powi(2);
            difference * difference <= limit * variance
        })
    }
}

/// By how much each equation `t = c·s` of a row counts where `c` is fitted to all: by how well it
/// is known, one over the variances of `t` and `s`, each relative to the square of its row. Without
/// weights the rounding of a single large entry, which may be multiplied by nothing, would blur the
/// factor, and with it all that must hold of the others.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    /// One over the square of the row of `t`, and of that of `s`.
    scale: [f64; 2],
}

impl Weights {
    /// What is known better than to eighteen digits of its row, which no format holds, is known to
    /// them.
    pub const BEST: f64 = 1e-36;

    /// By the squares of the row of `t`, with its variance, and of `s`, which is not zero.
    pub fn new(own: f64, other: f64) -> Weights {
        Weights { scale: [1.0 / own.max(f64::MIN_POSITIVE), 1.0 / other] }
    }

    /// Of an equation, each side a value with its variance: what it adds to `⟨s, s⟩`, to `⟨t, s⟩`
    /// and to the variances of the latter that the rounding of `s` and of `t` make, all weighted.
    #[inline(always)]
    pub fn terms(self, own: (f64, f64), other: (f64, f64)) -> [f64; 4] {
        let relative = own.1 * self.scale[0] + other.1 * self.scale[1] + Weights::BEST;
        let weighted = other.0 / relative;
        let square = weighted * weighted;
        [weighted * other.0, weighted * own.0, square * other.1, square * own.1]
    }
}

/// A factor with its bound.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ratio {
    pub factor: f64,
    pub error: f64,
}

impl Ratio {
    /// Exactly one.
    pub const ONE: Ratio = Ratio { factor: 1.0, error: 0.0 };

    /// The largest error of all, relative to its factor; factors of zero have none.
    pub fn largest_error<'a>(ratios: impl IntoIterator<Item = &'a Ratio>) -> f64 {
        let known = ratios.into_iter().filter(|ratio| ratio.factor != 0.0);
        known.map(|ratio| ratio.error / ratio.factor.abs()).fold(0.0, f64::max)
    }

    /// By the sums of the [terms](Weights::terms) of all entries: `⟨t, s⟩ / ⟨s, s⟩`.
    pub fn fitted([square, product, along, across]: [f64; 4]) -> Ratio {
        let factor = product / square;
        Ratio { factor, error: (factor * factor * along + across).sqrt() / square }
    }

    /// Whether it can be told from zero, so that there is an inverse.
    pub fn is_known(self) -> bool {
        UNITS * self.error < self.factor.abs()
    }

    /// The product of two.
    pub fn times(self, other: Ratio) -> Ratio {
        let error = (self.error * other.factor).hypot(other.error * self.factor);
        Ratio { factor: self.factor * other.factor, error }
    }

    /// One over this, which must be known.
    pub fn inverse(self) -> Ratio {
        Ratio { factor: 1.0 / self.factor, error: self.error / (self.factor * self.factor) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn a_product_carries_the_bounds_of_both_factors() {
        let floors = Floors::even(1, 2, 0.0);
        let matrix = Stored { value: array![[2.0, 4.0]], unit: 0.1, floors };
        let product = matrix.apply(&Bounded::stored(array![[3.0], [0.0]], 0.1, 0.0));
        assert_eq!(product.value, array![[6.0]]);
        assert!((product.variance[[0, 0]] - 2.0 * 0.36).abs() < 1e-12);
    }

    #[test]
    fn rows_that_differ_by_a_factor_have_a_ratio() {
        let rows = Bounded::stored(array![[1.0, -2.0], [3.0, -6.0], [3.0, -6.1]], 1e-9, 0.0);
        let ratio = |row| rows.row(row).ratio(&rows.row(0), UNITS).map(|ratio| ratio.factor);
        assert_eq!(ratio(1), Some(3.0));
        assert_eq!(ratio(2), None);
    }

    #[test]
    fn nothing_is_a_multiple_of_what_rounding_has_left_of_a_row() {
        let mut rows = Bounded::stored(array![[1.0, -2.0], [1.0, 1.0]], 1e-7, 0.0);
        rows.value.row_mut(1).assign(&array![1e-7, -3e-8]);
        assert!(rows.row(1).is_zero(UNITS));
        assert!(!rows.row(1).ratio(&rows.row(0), UNITS).unwrap().is_known());
        assert!(rows.row(0).ratio(&rows.row(1), UNITS).is_none());
    }

    #[test]
    fn what_rounding_has_left_of_a_copy_is_a_copy() {
        let mut rows = Bounded::stored(array![[1e-4, 2e-4], [-3e-5, 1e-4]], 1e-9, 0.0);
        rows.variance.row_mut(1).fill(1e-8);
        assert_eq!(rows.row(1).ratio(&rows.row(0), UNITS).map(|ratio| ratio.factor), Some(1.0));
    }

    #[test]
    fn a_number_below_the_floor_is_zero() {
        let rows = Bounded::stored(array![[1e-17, 0.0], [1e-3, 0.0]], 1e-7, 1e-8);
        assert!(rows.row(0).is_zero(UNITS));
        assert!(!rows.row(1).is_zero(UNITS));
    }

    #[test]
    fn a_mean_that_is_taken_away_brings_its_own_rounding() {
        let matrix = || Bounded { value: array![[1.0, 3.0]], variance: array![[0.1, 0.3]] };
        for centred in [matrix().centre_rows(), matrix().transposed().centre_columns().transposed()]
        {
            assert_eq!(centred.value, array![[-1.0, 1.0]]);
            for (variance, own) in centred.variance.iter().zip([0.1, 0.3]) {
                assert!((variance - (own + 0.4 / 4.0)).abs() < 1e-15, "{variance}");
            }
        }
    }

    #[test]
    fn the_mean_of_rows_rounds_less_than_each() {
        let value = array![[1.0, 2.0], [3.0, -4.0]];
        let rows = Bounded { value, variance: array![[0.1, 0.2], [0.3, 0.2]] };
        let (value, variance) = rows.mean_row();
        assert_eq!(value, array![2.0, -1.0]);
        assert!(variance.iter().all(|variance| (variance - 0.1).abs() < 1e-15), "{variance}");
    }

    #[test]
    fn matrices_beside_each_other_keep_their_numbers_and_bounds() {
        let (left, right) = (Bounded::ones(2), Bounded::stored(array![[2.0], [4.0]], 0.5, 0.0));
        let both = left.beside(&right);
        assert_eq!(both.value, array![[1.0, 2.0], [1.0, 4.0]]);
        assert_eq!(both.variance, array![[0.0, 1.0], [0.0, 4.0]]);
    }

    #[test]
    fn relative_errors_of_factors_add_in_quadrature() {
        let product = Ratio { factor: 2.0, error: 0.6 }.times(Ratio { factor: 5.0, error: 2.0 });
        assert_eq!((product.factor, product.error), (10.0, 5.0));
    }
}
