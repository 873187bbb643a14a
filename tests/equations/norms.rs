//! Norms without a weight, and norms whose γ is 1 + weight.

use super::pair::{Half, Pair, eta};
use lemon_check::model::{Norm, Op, Step};

/// Changes all norms of the stream.
fn each_norm(half: &mut Half, mut change: impl FnMut(&mut Norm)) {
    half.branches().for_each(|branch| change(branch.norm.as_mut().unwrap()));
    for step in half.model.outputs.iter_mut().flat_map(|output| &mut output.steps) {
        if let Step::Norm(norm) = step {
            change(norm);
        }
    }
}

fn norms(half: &Half) -> Vec<Norm> {
    let mut all = Vec::new();
    each_norm(&mut half.clone(), |norm| all.push(norm.clone()));
    all
}

/// γ = 1 + weight.
fn offset(half: &mut Half) {
    for norm in norms(half) {
        half.edit(&norm.weight.unwrap(), |weight| *weight -= 1.0);
    }
    each_norm(half, |norm| norm.offset = 1.0);
}

#[test]
fn offset_norms_are_proven() {
    Pair::llama().both(offset).is_proven();
    Pair::gpt2().both(offset).is_proven();
}

/// Changes the first norm's γ of the expanded model, from the source's.
fn first_gamma(pair: &mut Pair, gamma: impl Fn(f64) -> f64) {
    let source = pair.source.read(norms(&pair.source)[0].weight.as_ref().unwrap());
    let lens = norms(&pair.expanded)[0].weight.clone().unwrap();
    pair.expanded.edit(&lens, |weight| {
        (0..12).for_each(|i| weight[[i, 0]] = gamma(source[[i % 6, 0]]));
    });
}

#[test]
fn an_offset_norm_copied_as_it_is_lacks_eta() {
    let mut pair = Pair::llama().both(offset);
    first_gamma(&mut pair, |weight| weight);
    let failure = pair.is_caught();
    assert!(failure.tensor.ends_with("0.input_layernorm.weight"), "{failure:?}");
    assert!(failure.cause.unwrap().contains("eta is missing"));
}

#[test]
fn an_offset_norm_scaled_without_its_offset_is_caught_and_told() {
    let mut pair = Pair::llama().both(offset);
    first_gamma(&mut pair, |weight| eta(6, 15) * weight);
    let failure = pair.is_caught();
    assert!(failure.tensor.ends_with("0.input_layernorm.weight"), "{failure:?}");
    let cause = failure.cause.unwrap();
    assert!(cause.contains("1 + weight"), "{cause}");
}

/// Takes γ out of all norms, into the readers.
fn weightless(half: &mut Half) {
    let branches: Vec<_> = half.branches().map(|branch| branch.clone()).collect();
    for branch in branches {
        let gamma = branch.norm.unwrap().weight.unwrap();
        let readers = match &branch.op {
            Op::Attention(a) => vec![&a.query, &a.key, &a.value],
            Op::Mlp(m) => m.gate.iter().chain([&m.up]).collect(),
            Op::Experts(_) => vec![],
        };
        fold(half, &gamma, readers.into_iter().map(|linear| &linear.weight));
    }
    let steps = half.model.outputs[0].steps.clone();
    let [Step::Norm(norm), Step::Linear(head)] = &steps[..] else { panic!("norm, then head") };
    fold(half, norm.weight.as_ref().unwrap(), [&head.weight]);
    each_norm(half, |norm| norm.weight = None);
}

fn fold<'a>(
    half: &mut Half,
    gamma: &lemon_check::model::Lens,
    readers: impl IntoIterator<Item = &'a lemon_check::model::Lens>,
) {
    let values = half.read(gamma);
    for reader in readers {
        half.edit(reader, |matrix| {
            for ((_, col), value) in matrix.indexed_iter_mut() {
                *value *= values[[col, 0]];
            }
        });
    }
    half.remove(gamma.name());
}

#[test]
fn norms_without_a_weight_are_proven() {
    Pair::llama().both(weightless).is_proven();
}

#[test]
fn readers_behind_a_norm_without_a_weight_must_take_eta_in() {
    let pair = Pair::llama().both(weightless).but(|half| {
        let mlp = half.mlp(1);
        half.edit(&mlp.gate.unwrap().weight, |weight| *weight /= eta(6, 15));
    });
    let failure = pair.is_caught();
    assert!(failure.tensor.ends_with("gate_proj.weight"), "{failure:?}");
    let pair = Pair::llama().both(weightless).but(|half| each_norm(half, |norm| norm.eps *= 1.2));
    pair.is_caught_by_epsilon();
}

#[test]
fn a_bias_in_one_models_norm_alone_counts() {
    let pair = |value: f64| {
        Pair::llama().but(|half| {
            let bias = half.store_vector("beta", &[value; 15]);
            half.branches().nth(1).unwrap().norm.as_mut().unwrap().bias = Some(bias);
        })
    };
    pair(0.0).is_proven();
    pair(0.01).is_caught();
}
