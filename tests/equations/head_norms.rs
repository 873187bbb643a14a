//! Norms of queries and keys.

use super::pair::{Half, Pair, Shape, gains};
use lemon_check::model::{HeadNorms, Lens, Linear, Norm, NormKind};
use lemon_check::testing::Architecture;

/// Gives every layer norms of queries and keys, the same in both models.
fn normed(kind: NormKind, offset: f64) -> impl Fn(&mut Half) {
    move |half| {
        let layers = half.attentions().count();
        for layer in 0..layers {
            let size = half.attention(layer).head_dim;
            let mut norm = |name: &str, seed: u64| {
                let values: Vec<f64> = gains(size, seed).iter().map(|g| g - offset).collect();
                let weight = half.store_vector(&format!("{layer}.{name}.weight"), &values);
                let bias = (kind == NormKind::Layer).then(|| {
                    half.store_vector(&format!("{layer}.{name}.bias"), &gains(size, seed + 7))
                });
                let (weight, eps_field) = (Some(weight), Some("rms_norm_eps"));
                Norm { kind, weight, offset, bias, eps: 1e-2, eps_field }
            };
            let (query, key) = (norm("query_norm", 1), norm("key_norm", 2));
            half.attentions().nth(layer).unwrap().head_norms =
                Some(Box::new(HeadNorms { query, key }));
        }
    }
}

fn rms(pair: Pair) -> Pair {
    pair.both(normed(NormKind::Rms, 0.0))
}

/// Changes the norms of the queries and keys of all layers.
fn change(half: &mut Half, change: impl Fn(&mut Norm)) {
    for attention in half.attentions() {
        let norms = attention.head_norms.as_mut().unwrap();
        change(&mut norms.query);
        change(&mut norms.key);
    }
}

fn multiply(half: &mut Half, linear: &Linear, factor: f64) {
    linear.lenses().for_each(|lens: &Lens| half.edit(lens, |matrix| *matrix *= factor));
}

/// Multiplies the rows in front of the norms of queries or keys.
fn rows(half: &mut Half, factors: (f64, f64)) {
    for layer in 0..2 {
        let attention = half.attention(layer);
        multiply(half, &attention.query, factors.0);
        multiply(half, &attention.key, factors.1);
    }
}

#[test]
fn norms_of_queries_and_keys_are_proven() {
    for kind in [NormKind::Rms, NormKind::Layer] {
        for offset in [0.0, 1.0] {
            Pair::llama().both(normed(kind, offset)).is_proven();
            Pair::gpt2().both(normed(kind, offset)).is_proven();
        }
    }
}

#[test]
fn a_shared_eps_that_the_rows_follow_is_proven() {
    let pair = rms(Pair::llama()).but(|half| change(half, |norm| norm.eps *= 0.8));
    pair.but(|half| rows(half, (0.8f64.sqrt(), 0.8f64.sqrt()))).is_proven();
}

#[test]
fn a_shared_eps_that_the_rows_do_not_follow_is_caught() {
    let pair = || rms(Pair::llama()).but(|half| change(half, |norm| norm.eps *= 0.8));
    let failure = pair().is_caught_by_epsilon();
    assert_eq!(failure.tensor, "rms_norm_eps");
    assert!((failure.expected - 1e-2).abs() < 1e-12 && (failure.got - 0.8e-2).abs() < 1e-12);
    // The queries' alone.
    let root = 0.8f64.sqrt();
    let failure = pair().but(|half| rows(half, (root, 1.0))).is_caught_by_epsilon();
    assert!(failure.rule.contains("keys"), "{failure:?}");
    // Rows that grow need a larger ε as well.
    rms(Pair::gpt2()).but(|half| rows(half, (1.0, 2.0))).is_caught_by_epsilon();
}

#[test]
fn one_head_of_another_size_is_caught() {
    let pair = rms(Pair::gpt2()).but(|half| {
        let query = half.attention(0).query;
        half.edit(&query.weight, |weight| weight.row_mut(3).mapv_inplace(|w| 1.01 * w));
    });
    let failure = pair.is_caught();
    assert!(failure.tensor.ends_with("c_attn.weight"), "{failure:?}");
}

#[test]
fn a_gain_of_queries_or_keys_that_is_off_is_caught() {
    for which in [0, 1] {
        let pair = rms(Pair::llama()).but(|half| {
            let norms = half.attention(1).head_norms.unwrap();
            let norm = [norms.query, norms.key][which].clone();
            half.spoil(&norm.weight.unwrap(), 2, 0);
        });
        let failure = pair.is_caught();
        let name = ["1.query_norm.weight", "1.key_norm.weight"][which];
        assert_eq!(failure.tensor, name, "{failure:?}");
    }
}

#[test]
fn behind_a_norm_the_key_bias_counts_and_the_norms_own_does_not() {
    let biased = || Pair::gpt2().both(normed(NormKind::Layer, 0.0));
    biased()
        .but(|half| {
            let bias = half.attention(0).head_norms.unwrap().key.bias.unwrap();
            half.edit(&bias, |bias| bias[[1, 0]] += 0.1);
        })
        .is_proven();
    biased()
        .but(|half| {
            let bias = half.attention(0).head_norms.unwrap().query.bias.unwrap();
            half.edit(&bias, |bias| bias[[1, 0]] += 0.1);
        })
        .is_caught();
    biased()
        .but(|half| {
            let bias = half.attention(0).key.bias.unwrap();
            half.edit(&bias, |bias| bias[[1, 0]] += 0.1);
        })
        .is_caught();
}

#[test]
fn a_factor_may_move_from_one_gain_to_the_other() {
    let pair = rms(Pair::llama()).but(|half| {
        let norms = half.attention(0).head_norms.unwrap();
        half.edit(&norms.query.weight.unwrap(), |gamma| *gamma *= 4.0);
        half.edit(&norms.key.weight.unwrap(), |gamma| *gamma /= 4.0);
    });
    pair.is_proven();
}

#[test]
fn channels_may_be_permuted_with_their_gains() {
    let swap = |half: &mut Half, lens: &Lens, heads: usize| {
        half.edit(lens, |matrix| {
            for head in 0..heads {
                for col in 0..matrix.ncols() {
                    matrix.swap([3 * head, col], [3 * head + 2, col]);
                }
            }
        });
    };
    let all = |half: &mut Half, gains: bool| {
        let attention = half.attention(0);
        for linear in [&attention.query, &attention.key] {
            linear.lenses().for_each(|lens| swap(half, lens, attention.heads));
        }
        let norms = attention.head_norms.unwrap();
        for norm in [&norms.query, &norms.key].into_iter().filter(|_| gains) {
            swap(half, norm.weight.as_ref().unwrap(), 1);
        }
    };
    rms(Pair::gpt2()).but(|half| all(half, true)).is_proven();
    rms(Pair::gpt2()).but(|half| all(half, false)).is_caught();
}

#[test]
fn norms_in_one_model_alone_are_unknown() {
    let pair = Pair::gpt2().but(normed(NormKind::Rms, 0.0));
    pair.is_unknown("norms of queries and keys");
}

/// Gives the queries of each head one row, but for a number that is taken from one copy of a channel
/// and added to the other.
fn one_row(half: &mut Half, moved: f64) {
    let attention = half.attention(0);
    for lens in attention.query.lenses() {
        half.edit(lens, |matrix| {
            for row in 0..matrix.nrows() {
                let first = matrix.row(row / attention.head_dim * attention.head_dim).to_owned();
                matrix.row_mut(row).assign(&first);
            }
        });
    }
    if moved != 0.0 {
        half.edit(&attention.query.weight, |weight| {
            weight[[1, 0]] += moved;
            weight[[1, 6]] -= moved;
        });
    }
}

#[test]
fn what_rounding_leaves_of_a_head_is_nothing_if_epsilon_outweighs_it() {
    let pair = |eps: f64| {
        Pair::gpt2().both(normed(NormKind::Layer, 0.0)).both(|half| {
            one_row(half, 0.0);
            change(half, |norm| norm.eps = eps);
        })
    };
    let by = |moved: f64| pair(1e-2).but(|half| one_row(half, moved));
    by(0.1).is_proven();
    // A norm whose epsilon is zero makes something of it.
    let made = pair(0.0).but(|half| one_row(half, 0.1));
    assert!(!made.certificate().proves_lossless());
    // And small rows that are no rounding count, whatever outweighs them.
    let small = pair(1e-2).but(|half| {
        let attention = half.attention(0);
        half.edit(&attention.query.weight, |weight| weight[[1, 0]] += 5e-6);
    });
    small.is_caught();
}

#[test]
fn rows_that_epsilon_outweighs_within_the_coarser_of_two_formats_are_proven() {
    use lemon_check::checkpoint::Dtype;
    let (small, shape) = (1e-2, Shape { cancel: false, ..Shape::default() });
    let normed = rms(Pair::new(Architecture::Llama, shape));
    let mut pair = normed.both(|half| {
        change(half, |norm| norm.eps = 1.0);
        rows(half, (small, 1.0));
        half.round(Dtype::F32);
    });
    pair.expanded.round(Dtype::Bf16);
    let found = pair.certificate();
    assert!(found.proves_lossless(), "{:?} {:?}", found.failures.first(), found.unknown);
}
