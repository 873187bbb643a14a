//! Maps as operations give and read them.
//!
//! A map `name` is given as `name_entries` `[expanded]`, whole numbers: the source coordinate that
//! is copied, −1 for the mean of all, −2 for zero; with the attributes `name_sources`, how many
//! source coordinates there are, and `name_scale`, a factor on everything.

use super::{Inputs, Maker};
use crate::backend::bound::{Bounded, Format};
use crate::testing::random::Draw;
use ndarray::Array2;
use num_traits::{One, Zero};

/// An entry that is the mean.
pub(in crate::backend) const MEAN: i64 = -1;
/// An entry that is zero.
pub(in crate::backend) const ZERO: i64 = -2;

/// Entries of T_circ, T_zero, T_avg, of one copy and zeros, or of copies in any order.
pub(super) fn entries(
    kind: usize,
    (source, expanded): (usize, usize),
    rng: &mut impl Draw,
) -> Vec<i64> {
    let whole = expanded / source * source;
    let residue = |i: usize, rest: i64| if i < whole { (i % source) as i64 } else { rest };
    let entry = |i: usize| match kind {
        0 => (i % source) as i64,
        1 => residue(i, ZERO),
        2 => residue(i, MEAN),
        3 if i < source => i as i64,
        3 => ZERO,
        _ if i < source => i as i64,
        _ => rng.below(source) as i64,
    };
    let mut entries: Vec<i64> = (0..expanded).map(entry).collect();
    if kind == 4 {
        let order = rng.permutation(expanded);
        entries = order.into_iter().map(|place| entries[place]).collect();
    }
    entries
}

/// Gives a map of this kind.
pub(super) fn put(maker: &mut Maker, name: &str, kind: usize, sizes: (usize, usize), scaled: bool) {
    let mut rng = maker.random(name);
    let entries = entries(kind, sizes, &mut rng);
    put_entries(maker, name, &entries, sizes.0, scaled);
}

/// Gives a map.
pub(super) fn put_entries(
    maker: &mut Maker,
    name: &str,
    entries: &[i64],
    sources: usize,
    scaled: bool,
) {
    maker.integers(&format!("{name}_entries"), entries);
    maker.set(&format!("{name}_sources"), sources);
    let scale = if scaled { maker.random(name).pick(&[0.5, 0.7, 1.3, 2.0]) } else { 1.0 };
    maker.set(&format!("{name}_scale"), scale);
}

/// A map that was given.
pub(super) struct Dense<F> {
    pub sources: usize,
    pub entries: Vec<i64>,
    pub scale: Bounded<F>,
}

impl<F: Format> Dense<F> {
    pub fn of(inputs: &Inputs<F>, name: &str) -> Self {
        Dense {
            sources: inputs.count(&format!("{name}_sources")),
            entries: inputs.integers(&format!("{name}_entries")),
            scale: inputs.constant(&format!("{name}_scale")),
        }
    }

    /// How many copies a source coordinate has.
    fn copies(&self, source: i64) -> usize {
        self.entries.iter().filter(|entry| **entry == source).count()
    }

    /// E W: `[source, n]` to `[expanded, n]`.
    pub fn rows(&self, matrix: &Array2<Bounded<F>>) -> Array2<Bounded<F>> {
        let count = Bounded::exact(self.sources as f64);
        Array2::from_shape_fn((self.entries.len(), matrix.ncols()), |(row, column)| {
            self.scale
                * match self.entries[row] {
                    MEAN => matrix.column(column).iter().copied().sum::<Bounded<F>>() / count,
                    ZERO => Bounded::zero(),
                    copied => matrix[[copied as usize, column]],
                }
        })
    }

    /// The share of expanded coordinate `index` of what its source coordinate is read by, but for
    /// the scale.
    pub fn share(&self, index: usize, share: &str) -> Bounded<F> {
        let entry = self.entries[index];
        if entry < 0 {
            return Bounded::zero();
        }
        let copies = self.copies(entry);
        let place = self.entries[..=index].iter().filter(|other| **other == entry).count();
        match share {
            "equal" => Bounded::one() / Bounded::exact(copies as f64),
            "first" if place == 1 => Bounded::one(),
            "last" if place == copies => Bounded::one(),
            "opposite" if place == 1 && copies > 1 => Bounded::exact(0.5),
            "opposite" if place == 2 => Bounded::exact(-0.5),
            _ => Bounded::zero(),
        }
    }
}
