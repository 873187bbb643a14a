//! What a sublayer writes, channel by channel.

use super::bounded::{Bounded, Ratio, Stored, UNITS};
use super::cluster::Member;
use super::floors::Floors;
use super::pattern::Pattern;
use ndarray::{Array2, ArrayView1, Axis, Zip};

/// What a sublayer writes, channel by channel.
pub(super) struct Writes {
    pub keys: Keys,
    /// Whether a key times a positive factor makes the channel times that factor (ReLU).
    pub homogeneous: bool,
    /// Linear factors and, for each channel, its row of them.
    pub linear: Option<(Bounded, Vec<usize>)>,
    /// `[hidden, channels]`.
    pub fan_out: Stored,
    /// LayerScale: a factor on each row of the fan-outs, `[hidden, 1]`.
    pub scale: Option<Bounded>,
    /// The constant that is written, LayerScale included: `[hidden, 1]`.
    pub bias: Bounded,
}

impl Writes {
    /// The size of each channel's fan-out.
    pub fn sizes(&self) -> Vec<f64> {
        let square = |column: ArrayView1<f64>| match &self.scale {
            Some(scale) => {
                column.iter().zip(&scale.value).map(|(w, s)| (w * s).powi(2)).sum::<f64>()
            }
            None => column.dot(&column),
        };
        self.fan_out.value.axis_iter(Axis(1)).map(|column| square(column).sqrt()).collect()
    }

    /// Whether what a channel's fan-out is multiplied by is zero within so many units of its
    /// bounds, for any input: every activation maps zero to zero.
    pub fn is_zero(&self, channel: usize, units: f64) -> bool {
        let linear = self.linear.as_ref();
        linear.is_some_and(|(rows, of)| rows.row(of[channel]).is_zero(units))
            || matches!(&self.keys, Keys::Rows(rows) if rows.row(channel).is_zero(units))
    }

    /// The largest fan-out of those for which `is_meant`.
    pub fn largest(&self, is_meant: impl Fn(usize) -> bool) -> f64 {
        let sizes = self.sizes().into_iter().enumerate();
        sizes.filter(|(channel, _)| is_meant(*channel)).map(|(_, size)| size).fold(0.0, f64::max)
    }

    /// A head of whose pattern nothing is known: see [`Pattern::is_blurred`].
    pub fn blurred_head(&self) -> Option<usize> {
        let Keys::Patterns(patterns, _) = &self.keys else { return None };
        patterns.iter().position(Pattern::is_blurred)
    }

    /// Neurons without a gate: their rows, and their fan-outs in two channels.
    #[cfg(test)]
    pub fn of_neurons(
        rows: ndarray::Array2<f64>,
        fan_out: ndarray::Array2<f64>,
        scale: Option<[f64; 2]>,
    ) -> Self {
        let floors = Floors::even(2, fan_out.ncols(), 0.0);
        let column = |[a, b]: [f64; 2]| Bounded::stored(ndarray::array![[a], [b]], 0.0, 0.0);
        Writes {
            keys: Keys::Rows(Bounded::stored(rows, 1e-9, 1e-6)),
            homogeneous: false,
            linear: None,
            fan_out: Stored { value: fan_out, unit: 1e-9, floors },
            scale: scale.map(column),
            bias: Bounded::zeros(2, 1),
        }
    }

    /// The fan-outs of these channels with the rounding of the numbers themselves:
    /// `[hidden, channels]`.
    pub fn fan_outs(&self, channels: &[usize]) -> Bounded {
        let picked = Stored {
            value: self.fan_out.value.select(Axis(1), channels),
            unit: self.fan_out.unit,
            floors: Floors::even(self.fan_out.value.nrows(), channels.len(), 0.0),
        };
        self.scaled(picked.bounded())
    }

    /// The fan-outs of these channels with the bounds that equations hold them to:
    /// `[hidden, channels]`.
    pub fn held_fan_outs(&self, channels: &[usize]) -> Bounded {
        let value = self.fan_out.value.select(Axis(1), channels);
        let bound =
            |(row, place)| self.fan_out.variance((row, channels[place]), value[[row, place]]);
        let variance = Array2::from_shape_fn(value.dim(), bound);
        self.scaled(Bounded { value, variance })
    }

    fn scaled(&self, fan_outs: Bounded) -> Bounded {
        match &self.scale {
            Some(scale) => fan_outs.times_rows(scale),
            None => fan_outs,
        }
    }

    /// How many channels in a row are one head's: 1 for neurons.
    pub fn channels_of_a_head(&self) -> usize {
        match &self.keys {
            Keys::Patterns(_, channels) => *channels,
            Keys::Rows(_) => 1,
        }
    }

    /// The fan-outs of each of `count` groups summed: `[hidden, count]`.
    pub fn sums(&self, groups: &[Member], count: usize) -> Bounded {
        self.scaled(group_sums(&self.fan_out, groups, count))
    }
}

/// What decides a channel's non-linear factor.
pub(super) enum Keys {
    /// One folded row with its bias for each channel.
    Rows(Bounded),
    /// One pattern for each `n` channels.
    Patterns(Vec<Pattern>, usize),
}

/// The fan-outs of each group summed: `[hidden, groups]`.
fn group_sums(fan_out: &Stored, groups: &[Member], count: usize) -> Bounded {
    let mut sums = Bounded::zeros(fan_out.value.nrows(), count);
    let mut members = vec![0usize; count];
    groups.iter().flatten().for_each(|(group, _)| members[*group] += 1);
    let own: Vec<f64> = members.iter().map(|terms| own_rounding(*terms, fan_out.unit)).collect();
    Zip::indexed(fan_out.value.rows())
        .and(sums.value.rows_mut())
        .and(sums.variance.rows_mut())
        .for_each(|i, row, mut sum, mut spread| {
            for (j, (value, group)) in row.iter().zip(groups).enumerate() {
                let Some((group, Ratio { factor, error })) = group else { continue };
                sum[*group] += factor * value;
                spread[*group] +=
                    factor * factor * fan_out.variance((i, j), *value) + (error * value).powi(2);
            }
            spread.iter_mut().zip(&own).for_each(|(variance, own)| *variance *= own);
        });
    sums
}

/// By how much the variance of a sum of so many numbers, each known to `unit` of itself, is larger
/// for being computed in f64.
///
/// Their sizes add up to `s ≤ √(terms·variance)/unit` at most, and every addition rounds by 2⁻⁵³ of
/// that at most, always to one side where equal numbers are added: `terms·2⁻⁵³·s` in all. It is a
/// bound for good, and enters such that [`UNITS`] times its root is reached.
fn own_rounding(terms: usize, unit: f64) -> f64 {
    if unit == 0.0 {
        return 1.0;
    }
    let terms = terms as f64;
    1.0 + (terms * terms.sqrt() * f64::EPSILON / 2.0 / (unit * UNITS)).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn sums_of_many_numbers_of_float64_are_rounded_as_they_are_computed() {
        let unit = 2f64.powi(-50);
        assert!(own_rounding(2, unit) < 1.01 && own_rounding(1, unit) < 1.01);
        assert!(own_rounding(601, unit).sqrt() > 20.0);
        assert_eq!(own_rounding(601, 2f64.powi(-9)), 1.0);
    }

    #[test]
    fn the_size_of_a_fan_out_is_its_length_behind_layer_scale() {
        let sizes = |scale| Writes::of_neurons(array![[1.0]], array![[3.0], [4.0]], scale).sizes();
        assert_eq!(sizes(None), [5.0]);
        assert_eq!(sizes(Some([2.0, 0.5])), [40f64.sqrt()]);
    }
}
