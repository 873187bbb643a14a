//! Another order of neurons, heads or hidden channels is the same function (Hecht-Nielsen, *On the
//! Algebraic Structure of Feedforward Network Weight Spaces*, 1990; for Transformers, Ainsworth et
//! al., *Git Re-Basin*, 2022, arXiv 2209.04836).

use crate::axis::Axis;
use crate::grow::{Described, Growth};
use crate::judge::{
    ALL, any, edited, lossless, lossy, mlp_of, never_lossless, source, telling, told,
};
use lemon_check::testing::random::generator;

fn reordered(source: &Described, seed: u64, [neurons, heads, hidden]: [bool; 3]) -> Growth {
    let mut rng = generator(seed);
    let mut growth = Growth::none(&source.model, seed);
    let sizes = &source.model.sizes;
    for layer in &mut growth.layers {
        if neurons {
            layer.neurons = Axis::permuted(sizes.intermediate, &mut rng);
        }
        if heads {
            // Groups change places, and query heads within their group.
            let group = sizes.heads / sizes.kv_heads;
            layer.kv_heads = Axis::permuted(sizes.kv_heads, &mut rng);
            let kv_heads = layer.kv_heads.of.clone();
            let within = |kv: Option<usize>| {
                let order = Axis::permuted(group, &mut rng).of;
                order.into_iter().map(move |head| Some(kv? * group + head?))
            };
            layer.heads.of = kv_heads.into_iter().flat_map(within).collect();
        }
    }
    if hidden {
        growth.hidden = Axis::permuted(sizes.hidden, &mut rng);
    }
    growth
}

/// Whether an order is another one.
fn moved(axis: &Axis) -> bool {
    axis.of.iter().enumerate().any(|(place, of)| *of != Some(place))
}

#[test]
fn any_order_of_neurons_heads_and_channels_is_lossless() {
    let all = [true; 3];
    for parts in [[true, false, false], [false, true, false], [false, false, true], all] {
        for architecture in ALL {
            for seed in 0..6 {
                let source = source(architecture, seed, any);
                let growth = reordered(&source, seed, parts);
                let expanded = growth.build(&source);
                let what = format!("{architecture:?} {seed} {parts:?}");
                let found = lossless(&source, &expanded, &growth.hidden, &what);
                if moved(&growth.hidden) {
                    told(&found, "hidden", &format!("{}: permuted", source.model.sizes.hidden));
                }
                if growth.layers.iter().all(|layer| moved(&layer.neurons)) {
                    told(&found, "neurons", "permuted");
                }
                if growth.layers.iter().all(|layer| moved(&layer.heads)) {
                    told(&found, "heads", "permuted");
                }
            }
        }
    }
}

/// Two neurons' fan-outs change places, their fan-ins do not.
fn swapped(source: &Described) -> Described {
    edited(source, |editor, model| {
        let down = mlp_of(model, 0).down.weight.clone();
        let change = |w: &mut ndarray::Array2<f64>| {
            let (first, second) = (w.column(0).to_owned(), w.column(1).to_owned());
            w.column_mut(0).assign(&second);
            w.column_mut(1).assign(&first);
        };
        editor.edit(&down, change).unwrap();
    })
}

#[test]
fn an_order_that_only_one_side_follows_is_caught() {
    for architecture in ALL {
        for seed in 0..6 {
            let what = format!("{architecture:?} {seed}");
            let hidden = source(architecture, seed, any);
            never_lossless(&hidden, &swapped(&hidden), &what);
            let source = telling(architecture, seed, any);
            let found = lossy(&source, &swapped(&source), &what);
            assert_eq!(found.certificate.failures[0].place, "layer 0 MLP");
        }
    }
}
