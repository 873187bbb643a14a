//! Models without biases. Where there are some, what a layer writes is held through them too; here
//! its weights stand alone.

use super::pair::{Half, Pair};
use lemon_check::model::{Linear, Op};
use std::collections::BTreeSet;

/// The layers of all branches.
fn linears(half: &mut Half) -> Vec<&mut Linear> {
    let mut all = Vec::new();
    for branch in half.branches() {
        match &mut branch.op {
            Op::Attention(attention) => {
                let attention = &mut **attention;
                all.extend([&mut attention.query, &mut attention.key]);
                all.extend([&mut attention.value, &mut attention.output]);
            }
            Op::Mlp(mlp) => {
                let mlp = &mut **mlp;
                all.extend([&mut mlp.up, &mut mlp.down]);
                all.extend(&mut mlp.gate);
            }
            _ => panic!("no pair has other branches"),
        }
    }
    all
}

fn without_biases(half: &mut Half) {
    let biases = linears(half).into_iter().filter_map(|linear| linear.bias.take());
    // Several layers may share a tensor.
    let names: BTreeSet<String> = biases.map(|bias| bias.name().to_string()).collect();
    names.iter().for_each(|name| half.remove(name));
}

#[test]
fn every_weight_without_a_bias_is_held() {
    for pair in [Pair::llama(), Pair::gpt2()] {
        let mut pair = pair.both(without_biases);
        pair.is_proven();
        let weights: Vec<_> =
            linears(&mut pair.expanded).into_iter().map(|linear| linear.weight.clone()).collect();
        for weight in weights {
            let failure = pair.clone().but(|half| half.spoil(&weight, 1, 1)).is_caught();
            assert_eq!(failure.tensor, weight.name(), "{failure:?}");
        }
    }
}
