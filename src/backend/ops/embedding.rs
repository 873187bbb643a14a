//! `embedding`: rows of a table.
//!
//! Reads `table` `[rows, columns]`, `ids` `[tokens]` (whole numbers) and maybe `scale`; returns `y
//! = scale · table[ids]` `[tokens, columns]`.

use super::{Inputs, Maker, Outputs};
use crate::backend::bound::Format;
use crate::testing::random::Draw;
use ndarray::Array2;

pub(super) fn make(maker: &mut Maker) {
    let [rows, columns, tokens] = ["rows", "columns", "tokens"].map(|name| maker.size(name));
    maker.numbers("table", &[rows, columns]);
    let mut rng = maker.random("ids");
    let mut ids: Vec<i64> = (0..tokens).map(|_| rng.below(rows) as i64).collect();
    // The last row is read at least once.
    ids[rng.below(tokens)] = rows as i64 - 1;
    maker.integers("ids", &ids);
    if maker.on("scale") {
        maker.set("scale", (columns as f64).sqrt());
    }
}

pub(super) fn compute<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let (table, ids) = (inputs.matrix("table"), inputs.integers("ids"));
    let scale = inputs.number("scale").map(|_| inputs.constant("scale"));
    let entry = |(token, column)| {
        let value = table[[ids[token] as usize, column]];
        scale.map_or(value, |scale| value * scale)
    };
    Outputs::matrix("y", Array2::from_shape_fn((ids.len(), table.ncols()), entry))
}
