//! `rule_linear`, `rule_cancelling` and `rule_opposite`: a linear layer between two maps.
//!
//! They read the maps `rows` (of what is written) and `columns` (of what is read), and `weight`
//! `[source out, source in]` (not `rule_cancelling`). `share` says how copies share a column:
//! `equal`, `first` or `last`. `initial` `[expanded out, expanded in]` is the large layer's random
//! initialisation Z; without it Z is zero. They return `y` `[expanded out, expanded in]`:
//!
//! - `rule_linear`: E_out W L + Z (I − E_in L), the second term only in rows that are copies,
//! - `rule_cancelling`: Z (I − E_in L) in rows that are copies, zero elsewhere, with equal shares,
//! - `rule_opposite`: E_out W L where L gives ½ to the first copy and −½ to the second of
//!   coordinates that have two.
//!
//! L is the left inverse of E_in that reads copies alone: its entry for a copy is the copy's share
//! over the map's scale.

use super::rule_maps::{Dense, MEAN, put};
use super::{Inputs, Maker, Outputs};
use crate::backend::bound::{Bounded, Format};
use ndarray::Array2;
use num_traits::Zero;

const SHARES: [&str; 3] = ["equal", "first", "last"];

/// Draws the maps; returns their sizes.
fn make_maps(maker: &mut Maker) -> [(usize, usize); 2] {
    let [out, out_grown, inputs, in_grown] =
        ["source_out", "out_grown", "source_in", "in_grown"].map(|name| maker.size(name));
    let sizes = [(out, out + out_grown), (inputs, inputs + in_grown)];
    for (index, name) in ["rows", "columns"].into_iter().enumerate() {
        let (kind, scale) = [("out_map", "out_scale"), ("in_map", "in_scale")][index];
        put(maker, name, maker.size(kind), sizes[index], maker.on(scale));
    }
    sizes
}

fn make_weight(maker: &mut Maker, [out, inputs]: [(usize, usize); 2]) {
    maker.numbers("weight", &[out.0, inputs.0]);
}

fn make_initial(maker: &mut Maker, [out, inputs]: [(usize, usize); 2]) {
    maker.weights("initial", &[out.1, inputs.1], 0.0, 0.5);
}

pub(super) fn make(maker: &mut Maker) {
    let sizes = make_maps(maker);
    make_weight(maker, sizes);
    maker.set("share", SHARES[maker.size("share") % SHARES.len()]);
    if maker.on("initial") {
        make_initial(maker, sizes);
    }
}

pub(super) fn make_cancelling(maker: &mut Maker) {
    let sizes = make_maps(maker);
    make_initial(maker, sizes);
}

pub(super) fn make_opposite(maker: &mut Maker) {
    let sizes = make_maps(maker);
    make_weight(maker, sizes);
}

pub(super) fn linear<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    expand(inputs, inputs.word("share"))
}

pub(super) fn cancelling<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    expand(inputs, "equal")
}

pub(super) fn opposite<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    expand(inputs, "opposite")
}

fn expand<F: Format>(inputs: &Inputs<F>, share: &str) -> Outputs<F> {
    let (rows, columns) = (Dense::of(inputs, "rows"), Dense::of(inputs, "columns"));
    let written = inputs.has("weight").then(|| rows.rows(&inputs.matrix("weight")));
    let initial = inputs.has("initial").then(|| inputs.matrix("initial"));
    let shares: Vec<Bounded<F>> =
        (0..columns.entries.len()).map(|index| columns.share(index, share)).collect();
    let entry = |(row, column): (usize, usize)| {
        let copied = usize::try_from(columns.entries[column]).ok();
        let shared = |value: Bounded<F>| value * (shares[column] / columns.scale);
        let given = written.as_ref().zip(copied).map(|(w, j)| shared(w[[row, j]]));
        let hidden = initial.as_ref().filter(|_| rows.entries[row] >= 0);
        let hidden = hidden.map(|z| hide(z, (row, column), &columns, shares[column]));
        given.into_iter().chain(hidden.into_iter().flatten()).sum()
    };
    let shape = (rows.entries.len(), columns.entries.len());
    Outputs::matrix("y", Array2::from_shape_fn(shape, entry))
}

/// The terms of Z (I − E_in L) at one place; the map's scale drops out.
fn hide<F: Format>(
    initial: &Array2<Bounded<F>>,
    (row, column): (usize, usize),
    columns: &Dense<F>,
    share: Bounded<F>,
) -> Vec<Bounded<F>> {
    let mut terms = vec![initial[[row, column]]];
    let copied = columns.entries[column];
    let count = Bounded::exact(columns.sources as f64);
    for (other, entry) in columns.entries.iter().enumerate().filter(|_| copied >= 0) {
        // The scale is multiplied by and divided by: two roundings, if it is no power of two.
        let read = initial[[row, other]] * columns.scale * (share / columns.scale);
        match *entry {
            MEAN => terms.push(Bounded::zero() - read / count),
            entry if entry == copied => terms.push(Bounded::zero() - read),
            _ => {}
        }
    }
    terms
}
