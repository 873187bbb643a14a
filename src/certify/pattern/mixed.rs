//! Patterns whose queries and keys were mixed.
//!
//! Channels that are not turned may be mixed by any invertible matrix `B`, keys by `B` and queries
//! by `B⁻ᵀ`: what counts is the sum of their products. A frequency of rotary positions may be
//! multiplied by any complex number `z`, its key by `z` and its query by `1/conj(z)`, for both are
//! turned alike.

use super::super::agreement::Agreement;
use super::super::bounded::{Bounded, Ratio, UNITS, Weights};
use super::super::products::{Product, equal_matrices};
use super::{Alike, Channel, Pattern};

/// A complex number with the bound of its error.
#[derive(Clone, Copy)]
struct Turn {
    real: f64,
    imaginary: f64,
    error: f64,
}

impl Pattern {
    /// Whether queries and keys are those of these heads, mixed; then adds the equations that say
    /// so. `head` is this one's number.
    ///
    /// A norm of queries or keys reads their rows, so that they cannot be mixed behind it.
    pub fn is_mixed(&self, others: &Alike, head: usize, agreement: &mut Agreement) -> bool {
        let other = others.first;
        let distances = (self.distances.row(0), other.distances.row(0));
        if self.normed.is_some()
            || other.normed.is_some()
            || !distances.0.equals(&distances.1, Ratio::ONE, UNITS)
        {
            return false;
        }
        let Some(mut equal) = self.turned_from(other) else { return false };
        let Some(plain) = self.mixed_from(other) else { return false };
        equal.extend(plain);
        agreement.add(&distances.0, &distances.1, Ratio::ONE, head, 0);
        for (mine, theirs) in equal {
            for row in 0..mine.rows() {
                agreement.add(&mine.row(row), &theirs.row(row), Ratio::ONE, head, 0);
            }
        }
        true
    }

    /// Keys and queries of each frequency beside those of the other pattern, turned to be equal.
    fn turned_from(&self, other: &Pattern) -> Option<Vec<(Bounded, Bounded)>> {
        let turned = |p: &'_ Pattern| -> Vec<usize> {
            (0..p.channels.len()).filter(|c| p.channels[*c].frequency != 0.0).collect()
        };
        let mut free = turned(other);
        let mut equal = Vec::new();
        for channel in turned(self) {
            let mine = &self.channels[channel];
            let (place, [key, query]) = free.iter().enumerate().find_map(|(place, theirs)| {
                Some((place, mine.turned_from(&other.channels[*theirs])?))
            })?;
            free.remove(place);
            equal.extend([(mine.key.clone(), key), (mine.query.clone(), query)]);
        }
        free.is_empty().then_some(equal)
    }

    /// The sum of the products of all channels that are not turned, beside that of the other
    /// pattern; each channel beside its own, where every one is equal to one of the other's.
    fn mixed_from(&self, other: &Pattern) -> Option<Vec<(Bounded, Bounded)>> {
        let plain = |p: &'_ Pattern| -> Vec<usize> {
            (0..p.channels.len()).filter(|c| p.channels[*c].frequency == 0.0).collect()
        };
        let (mine, theirs) = (plain(self), plain(other));
        let mut free = theirs.clone();
        let mut equal = Vec::new();
        for channel in &mine {
            let channel = &self.channels[*channel];
            let found = free.iter().enumerate().find_map(|(place, theirs)| {
                let theirs = &other.channels[*theirs];
                Some((place, theirs, channel.ratio(theirs, UNITS)?))
            });
            let Some((place, theirs, ratio)) = found else { continue };
            equal.push((channel.key.clone(), theirs.key.scaled(ratio)));
            equal.push((channel.query.clone(), theirs.query.scaled(ratio.inverse())));
            free.remove(place);
        }
        if equal.len() == 2 * mine.len() && free.is_empty() {
            return Some(equal);
        }
        // A mistake in one row is no other basis: see `products`.
        if equal.len() / 2 + 2 > mine.len() || theirs.is_empty() {
            return None;
        }
        let product = |p: &'_ Pattern, of: &[usize]| {
            let rows = |part: fn(&Channel) -> &Bounded| {
                let parts: Vec<Bounded> =
                    of.iter().map(|c| part(&p.channels[*c]).clone()).collect();
                Bounded::stacked(&parts)
            };
            Product { left: rows(|channel| &channel.query), right: rows(|channel| &channel.key) }
        };
        let (mine, theirs) = (product(self, &mine), product(other, &theirs));
        Some(vec![equal_matrices(&mine, &theirs, UNITS)?])
    }
}

impl Channel {
    /// The other channel's key and query, turned by the complex number that fits its key to this
    /// one, if they are equal to this one's then.
    fn turned_from(&self, other: &Channel) -> Option<[Bounded; 2]> {
        if !self.has_frequency(other.frequency) {
            return None;
        }
        let turn = Turn::between(&self.key, &other.key)?;
        let key = turn.times(&other.key);
        let query = turn.inverse_of_conjugate()?.times(&other.query);
        let equal = |mine: &Bounded, theirs: &Bounded| {
            mine.row(0).equals(&theirs.row(0), Ratio::ONE, UNITS)
        };
        (equal(&self.key, &key) && equal(&self.query, &query)).then_some([key, query])
    }
}

impl Turn {
    /// The complex number that fits `to = z·from` best, of rows that hold the real parts and then
    /// the imaginary ones. An equation counts by how well it is known, as where a real factor is
    /// fitted.
    fn between(to: &Bounded, from: &Bounded) -> Option<Turn> {
        let half = to.cols() / 2;
        let square = |m: &Bounded| m.value.iter().map(|v| v * v).sum::<f64>();
        let (own, others) = (square(to) + to.variance.sum(), square(from));
        if others == 0.0 || from.cols() != to.cols() {
            return None;
        }
        let (mut sum, mut real, mut imaginary) = (0.0, 0.0, 0.0);
        let mut weights = Vec::with_capacity(half);
        for at in 0..half {
            let (a, b) = (from.value[[0, at]], from.value[[0, at + half]]);
            let (c, d) = (to.value[[0, at]], to.value[[0, at + half]]);
            let relative = spread(to, at) / own + spread(from, at) / others + Weights::BEST;
            let weight = 1.0 / relative;
            sum += weight * (a * a + b * b);
            real += weight * (a * c + b * d);
            imaginary += weight * (a * d - b * c);
            weights.push(weight);
        }
        let (real, imaginary) = (real / sum, imaginary / sum);
        let size = real * real + imaginary * imaginary;
        let noise = weights.iter().enumerate().map(|(at, weight)| {
            let square = from.value[[0, at]].powi(2) + from.value[[0, at + half]].powi(2);
            (weight / sum).powi(2) * square * (spread(to, at) + size * spread(from, at))
        });
        let error = noise.sum::<f64>().sqrt();
        // A number that may be zero has no inverse.
        (UNITS * error < size.sqrt()).then_some(Turn { real, imaginary, error })
    }

    /// `1/conj(z)`.
    fn inverse_of_conjugate(self) -> Option<Turn> {
        let size = self.real * self.real + self.imaginary * self.imaginary;
        let (real, imaginary) = (self.real / size, self.imaginary / size);
        (size > 0.0).then_some(Turn { real, imaginary, error: self.error / size })
    }

    /// `z·row`.
    fn times(self, row: &Bounded) -> Bounded {
        let half = row.cols() / 2;
        let mut turned = Bounded::zeros(1, row.cols());
        for at in 0..half {
            let (a, b) = (row.value[[0, at]], row.value[[0, at + half]]);
            let (va, vb) = (row.variance[[0, at]], row.variance[[0, at + half]]);
            let own = self.error * self.error * (a * a + b * b);
            let (r, i) = (self.real * self.real, self.imaginary * self.imaginary);
            turned.value[[0, at]] = self.real * a - self.imaginary * b;
            turned.value[[0, at + half]] = self.imaginary * a + self.real * b;
            turned.variance[[0, at]] = r * va + i * vb + own;
            turned.variance[[0, at + half]] = i * va + r * vb + own;
        }
        turned
    }
}

/// The larger variance of a complex number's two parts.
fn spread(row: &Bounded, at: usize) -> f64 {
    row.variance[[0, at]].max(row.variance[[0, at + row.cols() / 2]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    fn complex(real: f64, imaginary: f64) -> Bounded {
        let row = array![[real, 1.0, imaginary, -2.0]];
        Bounded::stored(row, 1e-9, 0.0)
    }

    #[test]
    fn the_factor_of_two_complex_rows_is_found_and_undone() {
        let from = complex(3.0, 4.0);
        let turn = Turn { real: 0.6, imaginary: -0.8, error: 0.0 };
        let found = Turn::between(&turn.times(&from), &from).unwrap();
        assert!((found.real - 0.6).abs() < 1e-12 && (found.imaginary + 0.8).abs() < 1e-12);
        // z·(1/conj z)* is one: keys and queries that are turned alike have the product they had.
        let other = found.inverse_of_conjugate().unwrap();
        assert!((found.real * other.real + found.imaginary * other.imaginary - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_frequency_is_one_only_if_keys_and_queries_are_turned_alike() {
        let channel = |key: Bounded, query: Bounded| Channel {
            frequency: 0.1,
            key,
            query,
            key_period: 0,
            query_period: 0,
        };
        let (key, query) = (complex(3.0, 4.0), complex(-1.0, 0.5));
        let original = channel(key.clone(), query.clone());
        let turn = Turn { real: 0.6, imaginary: -1.1, error: 0.0 };
        let inverse = turn.inverse_of_conjugate().unwrap();
        let turned = channel(turn.times(&key), inverse.times(&query));
        assert!(turned.turned_from(&original).is_some());
        let wrong = channel(turn.times(&key), turn.times(&query));
        assert!(wrong.turned_from(&original).is_none());
        let mut off = channel(turn.times(&key), inverse.times(&query));
        off.query.value[[0, 2]] *= 1.0 + 1e-7;
        assert!(off.turned_from(&original).is_none());
    }
}
