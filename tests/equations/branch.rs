//! LayerScale, norms behind a branch, parallel branches.

use super::pair::{Half, Pair, Shape, copied, eta, gains};
use lemon_check::model::{Dim, Lens, Norm, NormKind};
use lemon_check::testing::Architecture;

/// The tensors that the branches' ops write with, in order.
fn writers(half: &mut Half) -> Vec<(Lens, Option<Lens>)> {
    let writers = half.branches().flat_map(|branch| {
        let all: Vec<_> = branch.op.writers().into_iter().cloned().collect();
        all.into_iter().map(|writer| (writer.weight, writer.bias))
    });
    writers.collect()
}

/// Gives every branch a LayerScale: the source's numbers on copies, `rest` on the residue.
fn scaled(half: &mut Half, rest: f64) {
    let hidden = half.model.sizes.hidden;
    for branch in 0..half.branches().count() {
        let scale = copied(&gains(6, branch as u64), hidden, 1.0, rest);
        let lens = half.store_vector(&format!("{branch}.scale"), &scale);
        half.branches().nth(branch).unwrap().scale = Some(lens);
    }
}

/// Makes the residue's rows the mean of the others, `factor(branch, row)` times each.
fn mean_rows(half: &mut Half, factor: impl Fn(usize, usize) -> f64) {
    let hidden = half.model.sizes.hidden;
    for (branch, (weight, bias)) in writers(half).into_iter().enumerate() {
        for lens in std::iter::once(weight).chain(bias) {
            half.edit(&lens, |matrix| {
                for row in hidden / 6 * 6..hidden {
                    for col in 0..matrix.ncols() {
                        let sum: f64 = (0..6).map(|i| factor(branch, i) * matrix[[i, col]]).sum();
                        matrix[[row, col]] = sum / 6.0;
                    }
                }
            });
        }
    }
}

#[test]
fn a_layer_scale_is_proven_where_the_mean_is_of_what_it_scales() {
    let pair = Pair::gpt2().both(|half| scaled(half, 1.0));
    pair.but(|half| mean_rows(half, |branch, i| gains(6, branch as u64)[i])).is_proven();
    // On a zero-expanded stream nothing needs to be done.
    Pair::llama().both(|half| scaled(half, 0.3)).is_proven();
}

#[test]
fn a_layer_scale_and_its_writer_may_share_factors() {
    let pair = Pair::llama().both(|half| scaled(half, 1.0)).but(|half| {
        let (weight, bias) = writers(half).remove(0);
        for lens in [weight, bias.unwrap()] {
            half.edit(&lens, |matrix| matrix.row_mut(3).mapv_inplace(|v| 4.0 * v));
        }
        let scale = half.branches().next().unwrap().scale.clone().unwrap();
        half.edit(&scale, |scale| scale[[3, 0]] /= 4.0);
    });
    pair.is_proven();
}

#[test]
fn a_layer_scale_copied_naively_is_caught() {
    for rest in [1.0, 0.97] {
        Pair::gpt2().both(|half| scaled(half, rest)).is_caught();
    }
}

#[test]
fn one_number_of_a_layer_scale_that_is_off_is_caught_and_named() {
    let pair = Pair::llama().both(|half| scaled(half, 1.0)).but(|half| {
        let scale = half.branches().nth(2).unwrap().scale.clone().unwrap();
        half.spoil(&scale, 7, 0);
    });
    let failure = pair.is_caught();
    assert_eq!((failure.tensor.as_str(), failure.index), ("2.scale", vec![7]));
}

#[test]
fn an_inserted_branch_that_layer_scale_makes_zero_is_proven() {
    let shape = Shape { layers: 3, cancel: false, ..Shape::default() };
    let follow = |half: &mut Half| {
        for (branch, origin) in origins(half).into_iter().enumerate() {
            let scale = gains(6, origin.unwrap_or(0) as u64);
            half.store_vector(&format!("{branch}.scale"), &copied(&scale, 15, 1.0, 1.0));
        }
    };
    let pair = Pair::new(Architecture::Llama, shape).both(|half| scaled(half, 1.0)).but(follow);
    let inserted = |half: &mut Half| {
        let written: Vec<_> = writers(half).into_iter().map(|(weight, _)| weight).collect();
        (0..written.len()).filter(|i| half.read(&written[*i]).iter().all(|v| *v == 0.0)).collect()
    };
    let fill = |half: &mut Half, scale: f64| {
        let all: Vec<usize> = inserted(half);
        assert_eq!(all.len(), 2);
        for branch in all {
            let (weight, _) = writers(half).remove(branch);
            half.edit(&weight, |matrix| matrix.fill(0.5));
            let lens = half.branches().nth(branch).unwrap().scale.clone().unwrap();
            half.edit(&lens, |matrix| matrix.fill(scale));
        }
    };
    pair.clone().but(|half| fill(half, 0.0)).is_proven();
    pair.but(|half| fill(half, 0.01)).is_caught();
}

/// Norms behind all branches: the expanded γ is `factor` times the source's.
fn normed(half: &mut Half, kind: NormKind, offset: f64, factor: f64, rest: f64) {
    let hidden = half.model.sizes.hidden;
    let factor = if hidden == 6 { 1.0 } else { factor };
    for branch in 0..half.branches().count() {
        let mut store = |name: &str, values: Vec<f64>| {
            Some(half.store_vector(&format!("{branch}.{name}"), &values))
        };
        let gamma = copied(&gains(6, branch as u64 + 3), hidden, factor, rest);
        let weight = store("behind.weight", gamma.iter().map(|g| g - offset).collect());
        let beta = || copied(&gains(6, branch as u64 + 5), hidden, 1.0, 0.0);
        let bias = if kind == NormKind::Layer { store("behind.bias", beta()) } else { None };
        let eps = 1e-2 * factor * factor;
        let eps_field = Some("post_norm_eps");
        let norm = Norm { kind, weight, offset, bias, eps, eps_field };
        half.branches().nth(branch).unwrap().post_norm = Some(norm);
    }
}

/// A zero-expanded stream, and norms behind all branches.
fn sandwich(kind: NormKind) -> Pair {
    let pair = Pair::llama().both(|half| normed(half, kind, 1.0, eta(6, 15), 0.7));
    match kind {
        NormKind::Layer => pair.but(|half| mean_rows(half, |_, _| 1.0)),
        NormKind::Rms => pair,
    }
}

fn each_norm(half: &mut Half, change: impl Fn(&mut Norm)) {
    half.branches().for_each(|branch| change(branch.post_norm.as_mut().unwrap()));
}

#[test]
fn norms_behind_the_branches_are_proven() {
    sandwich(NormKind::Rms).is_proven();
    sandwich(NormKind::Layer).is_proven();
}

#[test]
fn in_front_of_a_norm_a_branch_may_have_a_factor_of_its_own() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        let larger = |half: &mut Half| {
            for (weight, bias) in writers(half) {
                half.edit(&weight, |matrix| *matrix *= 1.7);
                half.edit(&bias.unwrap(), |matrix| *matrix *= 1.7);
            }
        };
        let pair = || sandwich(kind).but(larger);
        pair().but(|half| each_norm(half, |norm| norm.eps *= 1.7 * 1.7)).is_proven();
        let failure = pair().is_caught_by_epsilon();
        assert_eq!(failure.tensor, "post_norm_eps");
    }
}

#[test]
fn an_unscaled_eps_behind_a_branch_is_caught() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        let failure = sandwich(kind)
            .but(|half| each_norm(half, |norm| norm.eps = 1e-2))
            .is_caught_by_epsilon();
        assert_eq!(failure.tensor, "post_norm_eps");
    }
}

#[test]
fn a_norm_behind_a_branch_without_eta_is_caught_and_named() {
    let copy = |half: &mut Half| {
        for branch in 0..half.branches().count() {
            let values: Vec<f64> = gains(6, branch as u64 + 3).iter().map(|g| g - 1.0).collect();
            let values = copied(&values, half.model.sizes.hidden, 1.0, 0.0);
            half.store_vector(&format!("{branch}.behind.weight"), &values);
        }
    };
    let failure = sandwich(NormKind::Rms).but(copy).is_caught();
    assert_eq!(failure.tensor, "0.behind.weight");
    let cause = failure.cause.unwrap();
    assert!(cause.contains("eta is missing"), "{cause}");
}

#[test]
fn a_bias_on_the_residue_behind_a_branch_is_caught() {
    let pair = sandwich(NormKind::Layer).but(|half| {
        let norm = half.branches().nth(1).unwrap().post_norm.clone().unwrap();
        half.edit(&norm.bias.unwrap(), |bias| bias[[13, 0]] = 0.01);
    });
    let failure = pair.is_caught();
    assert_eq!((failure.tensor.as_str(), failure.index), ("1.behind.bias", vec![13]));
}

#[test]
fn a_residue_that_is_not_the_mean_in_front_of_a_layer_norm_is_caught() {
    let pair = Pair::llama().both(|half| normed(half, NormKind::Layer, 0.0, eta(6, 15), 0.7));
    let failure = pair.is_caught();
    assert!(failure.tensor.ends_with("o_proj.weight"), "{failure:?}");
}

/// Two layers more than the source, in which the writers are zero or cancel.
fn deeper(cancel: bool) -> Pair {
    let shape = Shape { layers: 3, cancel, ..Shape::default() };
    let pair = Pair::new(Architecture::Llama, shape);
    pair.both(|half| normed(half, NormKind::Rms, 1.0, eta(6, 15), 0.0)).but(|half| {
        // The layers of the source keep their norms.
        let origins = origins(half);
        for (branch, origin) in origins.into_iter().enumerate() {
            let seed = origin.unwrap_or(0) as u64 + 3;
            let gamma = copied(&gains(6, seed), 15, eta(6, 15), 0.0);
            let values: Vec<f64> = gamma.iter().map(|g| g - 1.0).collect();
            half.store_vector(&format!("{branch}.behind.weight"), &values);
        }
    })
}

/// For each branch of a three-layer expansion the source's branch; none for the inserted layer,
/// which is the one after the first.
fn origins(half: &mut Half) -> Vec<Option<usize>> {
    let count = half.branches().count();
    (0..count).map(|branch| [Some(0), Some(1), None, None, Some(2), Some(3)][branch]).collect()
}

#[test]
fn a_layer_that_writes_nothing_does_not_stand_for_one_of_the_source() {
    for layer in [0, 2] {
        let silenced = deeper(false).but(|half| {
            for (weight, bias) in writers(half).drain(2 * layer..2 * layer + 2) {
                half.edit(&weight, |matrix| matrix.fill(0.0));
                half.edit(&bias.unwrap(), |bias| bias.fill(0.0));
            }
        });
        silenced.is_caught();
    }
}

#[test]
fn an_inserted_branch_that_writes_exact_zeros_is_proven() {
    deeper(false).is_proven();
}

#[test]
fn an_inserted_branch_whose_norm_is_zero_is_proven() {
    let pair = deeper(true).but(|half| {
        for branch in [2, 3] {
            half.store_vector(&format!("{branch}.behind.weight"), &[-1.0; 15]);
        }
    });
    pair.is_proven();
}

#[test]
fn fan_outs_that_cancel_in_front_of_a_norm_are_caught() {
    let pair = deeper(true).but(|half| each_norm(half, |norm| norm.eps = 0.6e-20));
    let found = pair.certificate();
    let inserted = found.failures.iter().find(|f| f.place.starts_with("layer 1"));
    let inserted = inserted.unwrap_or_else(|| panic!("{:?}", found.failures));
    assert!(inserted.cause.as_ref().unwrap().contains("exactly zero"), "{inserted:?}");
    assert!(!found.proves_lossless());
}

/// Attention and MLP of each layer side by side.
fn parallel(half: &mut Half) {
    for layer in &mut half.model.layers {
        let branches = layer.drain(..).flat_map(|sublayer| sublayer.branches).collect();
        layer.push(lemon_check::model::Sublayer { branches, post_norm: None });
    }
}

#[test]
fn parallel_branches_are_proven() {
    for pair in [Pair::llama(), Pair::gpt2()] {
        pair.both(parallel).is_proven();
    }
}

#[test]
fn a_constant_may_move_between_parallel_branches() {
    let shift = |half: &mut Half, both: bool| {
        let mut biases = writers(half).into_iter().map(|(_, bias)| bias.unwrap());
        let (first, second) = (biases.next().unwrap(), biases.next().unwrap());
        half.edit(&first, |bias| bias[[2, 0]] += 0.25);
        if both {
            half.edit(&second, |bias| bias[[2, 0]] -= 0.25);
        }
    };
    for pair in [Pair::llama, Pair::gpt2] {
        pair().both(parallel).but(|half| shift(half, true)).is_proven();
        let failure = pair().both(parallel).but(|half| shift(half, false)).is_caught();
        assert!(failure.tensor.ends_with("bias"), "{failure:?}");
        // One behind the other they read different streams.
        pair().but(|half| shift(half, true)).is_caught();
    }
}

#[test]
fn swapped_norms_of_parallel_branches_are_caught() {
    let swap = |half: &mut Half| {
        let branches = &mut half.model.layers[0][0].branches;
        let norm = branches[0].norm.clone();
        branches[0].norm = branches[1].norm.clone();
        branches[1].norm = norm;
    };
    Pair::gpt2().both(parallel).but(swap).is_caught();
}

#[test]
fn one_scale_more_than_the_other_model_has_is_caught() {
    let pair = Pair::llama().but(|half| {
        let lens = half.store_vector("scale", &[1.5; 15]);
        half.branches().next().unwrap().scale = Some(lens);
    });
    pair.is_caught();
    let ones = Pair::llama().but(|half| {
        let lens = Lens::vector("scale", Dim::new(15, "size"));
        half.store_vector("scale", &[1.0; 15]);
        half.branches().next().unwrap().scale = Some(lens);
    });
    ones.is_proven();
}
