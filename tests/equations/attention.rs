//! Windows, partial rotary positions, soft caps.

use super::pair::{Half, Pair, Shape};
use lemon_check::certify::Reach;
use lemon_check::model::{Rotary, Window};
use lemon_check::testing::Architecture;

const FIELD: &str = "layer_types";

/// Gives the layers windows of these sizes, 0 for none.
fn windows(half: &mut Half, sizes: &[usize]) {
    let window = |size: &usize| (*size > 0).then_some(Window { size: *size, field: FIELD });
    half.attentions().zip(sizes).for_each(|(attention, size)| attention.window = window(size));
}

#[test]
fn equal_windows_are_proven() {
    for pair in [Pair::llama(), Pair::gpt2()] {
        pair.both(|half| windows(half, &[3, 0])).is_proven();
    }
}

#[test]
fn windows_in_other_layers_are_caught_by_their_field() {
    let pair = Pair::llama().both(|half| windows(half, &[3, 0]));
    let failure = pair.but(|half| windows(half, &[0, 3])).is_caught();
    assert_eq!((failure.tensor.as_str(), failure.place.as_str()), (FIELD, "layer 0 attention"));
    assert_eq!(failure.reach, Reach::Longer(3));
}

#[test]
fn a_window_of_another_size_is_caught() {
    let pair = Pair::gpt2().both(|half| windows(half, &[3, 4]));
    let failure = pair.but(|half| windows(half, &[3, 5])).is_caught();
    assert_eq!((failure.expected, failure.got), (4.0, 5.0));
    assert_eq!(failure.place, "layer 1 attention");
}

/// The layers of an expanded model that were inserted: by default one after each.
fn deep() -> Pair {
    Pair::new(Architecture::Llama, Shape { layers: 4, ..Shape::default() })
}

#[test]
fn an_inserted_layer_may_have_any_window() {
    let right = || deep().both(|half| windows(half, &[3, 0]));
    right().but(|half| windows(half, &[3, 7, 0, 2])).is_proven();
    right().but(|half| windows(half, &[3, 0, 0, 3])).is_proven();
}

#[test]
fn windows_that_alternate_by_index_are_caught() {
    let pair = deep().both(|half| windows(half, &[3, 0]));
    let failure = pair.but(|half| windows(half, &[3, 0, 3, 0])).is_caught();
    assert_eq!((failure.tensor.as_str(), failure.place.as_str()), (FIELD, "layer 2 attention"));
}

/// Turns the first `pairs` frequencies alone.
fn turned(half: &mut Half, pairs: usize) {
    for attention in half.attentions() {
        let rotary = attention.rotary.as_ref().unwrap();
        let frequencies = rotary.frequencies[..pairs].into();
        attention.rotary = Some(Rotary { frequencies });
    }
}

#[test]
fn partial_rotary_positions_are_proven() {
    for pairs in [0, 1] {
        Pair::llama().both(|half| turned(half, pairs)).is_proven();
    }
}

#[test]
fn a_frequency_of_zero_turns_nothing() {
    let still = |half: &mut Half| {
        for attention in half.attentions() {
            let first = attention.rotary.as_ref().unwrap().frequencies[0];
            attention.rotary = Some(Rotary { frequencies: [first, 0.0].into() });
        }
    };
    Pair::llama().both(still).is_proven();
}

#[test]
fn another_number_of_rotated_channels_is_caught() {
    Pair::llama().both(|half| turned(half, 1)).but(|half| turned(half, 0)).is_caught();
}

#[test]
fn the_key_bias_of_channels_that_are_not_turned_is_invisible() {
    let pair = || Pair::llama().both(|half| turned(half, 1));
    let spoil = |channel: usize| {
        move |half: &mut Half| {
            let bias = half.attention(0).key.bias.unwrap();
            half.edit(&bias, |bias| bias[[channel, 0]] += 0.1);
        }
    };
    pair().but(spoil(2)).is_proven();
    pair().but(spoil(3)).is_proven();
    let failure = pair().but(spoil(1)).is_caught();
    assert!(failure.tensor.ends_with("k_proj.bias"), "{failure:?}");
}

fn capped(cap: f64) -> impl Fn(&mut Half) {
    move |half| half.attentions().for_each(|attention| attention.softcap = Some(cap))
}

#[test]
fn capped_logits_are_proven() {
    for pair in [Pair::llama(), Pair::gpt2()] {
        pair.both(capped(1.5)).is_proven();
    }
}

#[test]
fn another_cap_is_unknown() {
    let pair = Pair::gpt2().both(capped(1.5)).but(capped(1.6));
    pair.is_unknown("soft cap on attention logits is 1.5 in the source, here 1.6");
    assert!(pair.apart() > 1e-6);
}

#[test]
fn behind_a_cap_the_key_bias_counts() {
    let spoil = |half: &mut Half| {
        let bias = half.attention(0).key.bias.unwrap();
        half.edit(&bias, |bias| bias[[0, 0]] += 0.1);
    };
    Pair::gpt2().but(spoil).is_proven();
    let failure = Pair::gpt2().both(capped(1.5)).but(spoil).is_caught();
    assert!(failure.tensor.ends_with("c_attn.bias"), "{failure:?}");
}

#[test]
fn behind_a_cap_the_logit_scale_counts_once() {
    // Without the cap a factor may move between query and scale; behind it too.
    let moved = |half: &mut Half| {
        let query = half.attention(0).query;
        half.edit(&query.weight, |weight| *weight *= 2.0);
        half.edit(&query.bias.unwrap(), |bias| *bias *= 2.0);
    };
    let halved = |half: &mut Half| half.attentions().next().unwrap().scale /= 2.0;
    let pair = || Pair::gpt2().both(capped(1.5)).but(moved);
    pair().but(halved).is_proven();
    pair().is_caught();
}

/// A constant that attention writes is not hidden by values that read, by a large factor, a channel
/// that holds nothing.
#[test]
fn a_constant_that_is_wrong_is_caught_whatever_values_read_of_a_channel_of_zeros() {
    let channel = |index: usize| index % 6 == 1 && index < 12;
    let empty = |half: &mut Half| {
        let table = half.model.embedding.tables[0].lens.clone();
        half.edit(&table, |table| {
            for mut column in (0..).zip(table.columns_mut()).filter(|(c, _)| channel(*c)) {
                column.1.fill(0.0);
            }
        });
        let value = half.attention(0).value.weight;
        half.edit(&value, |value| {
            for mut column in (0..).zip(value.columns_mut()).filter(|(c, _)| channel(*c)) {
                column.1 *= 1e9;
            }
        });
    };
    let pair = Pair::llama().both(empty);
    pair.is_proven();
    let wrong = pair.but(|half| {
        let bias = half.attention(0).output.bias.unwrap();
        half.edit(&bias, |bias| bias[[2, 0]] += 1e-2);
    });
    wrong.is_caught();
}
