//! Tied heads: the token table read as a matrix.

use super::{Entry, Map};

/// The factor h by which a head that *is* the token table multiplies the logits, if the table's rows
/// have the map `table` and what the head reads has the map `read`: the copies of a channel that
/// meet, times both scales. With a stream of s·T, h = s·k·c_S/c_T where the model multiplies the
/// table by c in code (LEMON, section 4.3).
///
/// Dividing what is read by h (γ and β of the norm in front) is lossless: every row of the table is
/// k copies of the row that it was, beside channels that read zero.
pub fn tied_growth(table: &Map, read: &Map) -> f64 {
    let pairs = table.entries().iter().zip(read.entries());
    let copies = pairs.filter(|pair| *pair == (&Entry::Copy(0), &Entry::Copy(0))).count();
    copies as f64 * table.scale() * read.scale()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_table_read_as_a_head_multiplies_by_the_growth() {
        let (word, x) = (array![[1.0, -2.0, 0.5]], array![[0.3], [0.2], [-1.0]]);
        let table = Map::average(3, 11).scaled(0.7);
        let read = Map::zero(3, 11).scaled(0.9);
        let logit = table.expand_columns(&word).unwrap().dot(&read.expand_rows(&x));
        let growth = tied_growth(&table, &read);
        assert!((growth - 3.0 * 0.7 * 0.9).abs() < 1e-15);
        assert!((logit - word.dot(&x) * growth)[[0, 0]].abs() < 1e-14);
    }
}
