//! Products whose factors are of very different sizes. What is halved in one factor and doubled in
//! the other leaves the function as it is, so small numbers may not be taken for rounding.

use super::pair::{Half, Pair};
use lemon_check::model::{Lens, Linear};
use ndarray::Axis;

/// 2^-30 is less than f32's unit of rounding, 2^-60 less than f64's.
const TINY: [i32; 2] = [-30, -60];

/// Multiplies every row (axis 0) or column that `chosen` names by a power of two.
fn shift(half: &mut Half, lens: &Lens, axis: usize, chosen: impl Fn(usize) -> bool, power: i32) {
    half.edit(lens, |matrix| {
        for (index, mut line) in matrix.axis_iter_mut(Axis(axis)).enumerate() {
            if chosen(index) {
                line *= 2f64.powi(power);
            }
        }
    });
}

fn shift_rows(half: &mut Half, linear: &Linear, chosen: impl Fn(usize) -> bool + Copy, power: i32) {
    linear.lenses().for_each(|lens| shift(half, lens, 0, chosen, power));
}

/// Asserts that a right pair stays proven under `change`, and that one row of `lens` that is half
/// as large again is caught then.
fn mistakes_are_caught(change: impl Fn(&mut Half, i32), lens: impl Fn(&Half) -> Lens, row: usize) {
    for power in TINY {
        let pair = Pair::llama().both(|half| change(half, power));
        let found = pair.certificate();
        assert!(found.proves_lossless(), "{:?} {:?}", found.failures, found.unknown);
        let lens = lens(&pair.expanded);
        pair.but(|half| half.edit(&lens, |matrix| matrix.row_mut(row).map_inplace(|v| *v *= 1.5)))
            .is_caught();
    }
}

/// One channel of every head: the second of four.
fn second(row: usize) -> bool {
    row % 4 == 1
}

/// Copies of the source's second neuron, of five.
fn neuron(row: usize) -> bool {
    row % 5 == 1
}

/// Copies of the stream's second channel, of six.
fn channel(row: usize) -> bool {
    row % 6 == 1 && row < 12
}

#[test]
fn in_values_that_are_tiny_in_one_layer() {
    let change = |half: &mut Half, power| {
        let attention = half.attention(0);
        shift_rows(half, &attention.value, |_| true, power);
        shift(half, &attention.output.weight, 1, |_| true, -power);
    };
    mistakes_are_caught(change, |half| half.attention(0).value.weight, 1);
}

#[test]
fn in_one_value_channel_that_is_tiny() {
    let change = |half: &mut Half, power| {
        let attention = half.attention(0);
        shift_rows(half, &attention.value, second, power);
        shift(half, &attention.output.weight, 1, second, -power);
    };
    mistakes_are_caught(change, |half| half.attention(0).value.weight, 1);
}

#[test]
fn in_one_output_channel_that_is_tiny() {
    let change = |half: &mut Half, power: i32| {
        let attention = half.attention(0);
        shift_rows(half, &attention.value, second, -power);
        shift(half, &attention.output.weight, 1, second, power);
    };
    for power in TINY {
        let pair = Pair::llama().both(|half| change(half, power));
        let output = pair.expanded.attention(0).output.weight;
        pair.but(|half| half.edit(&output, |matrix| matrix[[2, 1]] *= 1.5)).is_caught();
    }
}

#[test]
fn in_one_query_channel_that_is_tiny() {
    // Channels 1 and 3 are turned together.
    let pair = |row: usize| row % 2 == 1;
    let change = |half: &mut Half, power: i32| {
        let attention = half.attention(0);
        shift_rows(half, &attention.query, pair, power);
        shift_rows(half, &attention.key, pair, -power);
    };
    mistakes_are_caught(change, |half| half.attention(0).query.weight, 1);
    let change = |half: &mut Half, power: i32| change(half, -power);
    mistakes_are_caught(change, |half| half.attention(0).key.weight, 1);
}

#[test]
fn in_one_neuron_that_is_tiny() {
    let change = |half: &mut Half, power: i32| {
        let mlp = half.mlp(0);
        shift_rows(half, &mlp.up, neuron, power);
        shift(half, &mlp.down.weight, 1, neuron, -power);
    };
    mistakes_are_caught(change, |half| half.mlp(0).up.weight, 1);
}

/// Zeros are no noise that could hide what is small.
#[test]
fn in_the_fan_out_of_one_neuron_whose_copies_have_none() {
    let change = |half: &mut Half, power: i32| {
        let mlp = half.mlp(0);
        half.edit(&mlp.down.weight, |matrix| {
            for copy in (2..matrix.ncols()).filter(|column| neuron(*column)) {
                let share = matrix.column(copy).to_owned();
                matrix.column_mut(copy).fill(0.0);
                let mut first = matrix.column_mut(1);
                first += &share;
            }
        });
        shift_rows(half, &mlp.up, neuron, -power);
        shift(half, &mlp.down.weight, 1, neuron, power);
    };
    for power in TINY {
        let pair = Pair::llama().both(|half| change(half, power));
        let found = pair.certificate();
        assert!(found.proves_lossless(), "{:?} {:?}", found.failures, found.unknown);
        let down = pair.expanded.mlp(0).down.weight;
        pair.but(|half| half.edit(&down, |matrix| matrix[[2, 1]] *= 1.5)).is_caught();
    }
}

#[test]
fn in_one_channel_of_a_norm_that_is_tiny() {
    let change = |half: &mut Half, power: i32| {
        let norm = half.model.layers[0][1].branches[0].norm.clone().unwrap().weight.unwrap();
        let mlp = half.mlp(0);
        shift(half, &norm, 0, channel, power);
        shift(half, &mlp.gate.unwrap().weight, 1, channel, -power);
        shift(half, &mlp.up.weight, 1, channel, -power);
    };
    let norm =
        |half: &Half| half.model.layers[0][1].branches[0].norm.clone().unwrap().weight.unwrap();
    mistakes_are_caught(change, norm, 1);
}

#[test]
fn in_one_channel_of_the_embeddings_that_is_tiny() {
    let change = |half: &mut Half, power: i32| {
        let table = half.model.embedding.tables[0].lens.clone();
        shift(half, &table, 1, channel, power);
        let norm = half.model.layers[0][0].branches[0].norm.clone().unwrap().weight.unwrap();
        shift(half, &norm, 0, channel, -power);
    };
    for power in TINY {
        let pair = Pair::llama().both(|half| change(half, power));
        let table = pair.expanded.model.embedding.tables[0].lens.clone();
        pair.but(|half| half.edit(&table, |matrix| matrix[[3, 1]] *= 1.5)).is_caught();
    }
}

/// A number may be small for two reasons at once, and its row and its column both be larger.
#[test]
fn in_a_tiny_value_channel_that_reads_a_tiny_channel_of_the_stream() {
    let change = |half: &mut Half, power: i32| {
        let attention = half.attention(0);
        shift_rows(half, &attention.value, second, power);
        shift(half, &attention.output.weight, 1, second, -power);
        let norm = half.model.layers[0][0].branches[0].norm.clone().unwrap().weight.unwrap();
        shift(half, &norm, 0, channel, -power);
        for linear in [&attention.query, &attention.key, &attention.value] {
            shift(half, &linear.weight, 1, channel, power);
        }
    };
    for power in TINY {
        let pair = Pair::llama().both(|half| change(half, power));
        let found = pair.certificate();
        assert!(found.proves_lossless(), "{:?} {:?}", found.failures, found.unknown);
        let value = pair.expanded.attention(0).value.weight;
        pair.but(|half| half.edit(&value, |matrix| matrix[[1, 1]] *= 1.5)).is_caught();
    }
}

/// Queries could be anything where no key is left but rounding, if that were taken for a multiple
/// of the source's key.
#[test]
fn in_keys_of_which_rounding_is_left() {
    let pair = Pair::llama().both(|half| half.attentions().for_each(|a| a.key.bias = None));
    let key = pair.expanded.attention(0).key.weight;
    for unit in [f64::EPSILON, f32::EPSILON as f64] {
        let cancel = |matrix: &mut ndarray::Array2<f64>| {
            for (row, channel) in (0..4).flat_map(|row| (0..6).map(move |c| (row, c))) {
                matrix[[row, channel + 6]] = -matrix[[row, channel]] * (1.0 + unit);
            }
        };
        pair.clone().but(|half| half.edit(&key, cancel)).is_caught();
    }
}
