//! Mixtures of experts: three in the source, up to two copies of each in the expanded model.

use super::pair::{Half, Pair, eta, random};
use lemon_check::model::{Experts, Linear, Mlp, Op};
use ndarray::Array2;

/// The source's experts.
const FEW: usize = 3;

/// How an expert differs from the layer's network: factors on the gate's and the writer's rows.
fn factors(expert: usize) -> (f64, f64) {
    [(1.0, 1.0), (-0.7, 0.8), (1.4, -1.2)][expert]
}

fn store(half: &mut Half, name: &str, linear: &Linear, factor: f64) -> Linear {
    let weight = half.read(&linear.weight) * factor;
    let bias = linear.bias.as_ref().map(|bias| half.read(bias) * factor);
    let weight = half.store(&format!("{name}.weight"), &weight);
    let bias = bias.map(|bias| {
        let values: Vec<f64> = bias.iter().copied().collect();
        half.store_vector(&format!("{name}.bias"), &values)
    });
    Linear { weight, bias }
}

/// Which of the source's experts each expert is.
type Places = [usize];

/// Puts a mixture in place of layer 0's MLP: `places` says which of the source's experts each
/// expert is; `rows` are the source's experts' router rows.
fn mixed(half: &mut Half, places: &Places, active: usize, rows: &Array2<f64>) {
    let mlp = half.mlp(0);
    let experts = places.iter().enumerate().map(|(number, of)| {
        let (gate, down) = factors(*of);
        let name = |part: &str| format!("expert.{number}.{part}");
        Mlp {
            gate: Some(store(half, &name("gate"), mlp.gate.as_ref().unwrap(), gate)),
            up: store(half, &name("up"), &mlp.up, 1.0),
            down: store(half, &name("down"), &mlp.down, down),
            activation: mlp.activation,
        }
    });
    let experts: Vec<Mlp> = experts.collect();
    for linear in mlp.linears() {
        linear.lenses().for_each(|lens| half.remove(lens.name()));
    }
    let rows = Array2::from_shape_fn((places.len(), rows.ncols()), |(i, j)| rows[[places[i], j]]);
    let weight = half.store("router.weight", &rows);
    let router = Linear { weight, bias: None };
    let op = Op::Experts(Box::new(Experts { router, experts, active }));
    half.model.layers[0][1].branches[0].op = op;
}

/// Router rows of the source's experts, `[FEW, hidden]`, in both models: the copies of a channel
/// share the source's weight, and the residue, where the norm gives zero, is free.
fn routers(pair: &Pair) -> (Array2<f64>, Array2<f64>) {
    let gamma = |half: &Half| {
        let norm = half.model.layers[0][1].branches[0].norm.clone().unwrap();
        half.read(&norm.weight.unwrap())
    };
    let (small, large) = (gamma(&pair.source), gamma(&pair.expanded));
    let rows = random(FEW, 6, 77);
    let expanded = Array2::from_shape_fn((FEW, 15), |(i, j)| {
        let share = if j < 6 { 0.7 } else { 0.3 };
        match j < 12 {
            true => share * rows[[i, j % 6]] * small[[j % 6, 0]] * eta(6, 15) / large[[j, 0]],
            false => 5.0,
        }
    });
    (rows, expanded)
}

/// The expanded model's experts are `places`, `active` of them.
fn mixture(places: &Places, active: usize) -> Pair {
    let mut pair = Pair::llama();
    let routers = routers(&pair);
    mixed(&mut pair.source, &[0, 1, 2], 2, &routers.0);
    mixed(&mut pair.expanded, places, active, &routers.1);
    pair
}

fn experts(half: &Half) -> Experts {
    match &half.model.layers[0][1].branches[0].op {
        Op::Experts(experts) => (**experts).clone(),
        _ => panic!("it is a mixture"),
    }
}

#[test]
fn experts_copied_evenly_are_proven_wherever_the_copies_stand() {
    mixture(&[0, 1, 2], 2).is_proven();
    mixture(&[2, 0, 1], 2).is_proven();
    mixture(&[0, 0, 1, 1, 2, 2], 4).is_proven();
    mixture(&[0, 1, 2, 2, 1, 0], 4).is_proven();
}

#[test]
fn copies_of_an_expert_may_write_unequally() {
    let pair = |other: f64| {
        mixture(&[0, 1, 2, 0, 1, 2], 4).but(|half| {
            let all = experts(half).experts;
            for (number, factor) in [(1, 1.75), (4, other)] {
                let down = &all[number].down;
                down.lenses().for_each(|lens| half.edit(lens, |matrix| *matrix *= factor));
            }
        })
    };
    pair(0.25).is_proven();
    let failure = pair(0.26).is_caught();
    assert!(failure.tensor.contains("down"), "{failure:?}");
}

#[test]
fn as_many_active_experts_as_before_are_caught_by_their_field() {
    let failure = mixture(&[0, 0, 1, 1, 2, 2], 2).is_caught();
    assert_eq!(failure.tensor, "num_experts_per_tok");
    assert_eq!((failure.expected, failure.got), (4.0, 2.0));
}

#[test]
fn experts_copied_unevenly_are_caught() {
    let failure = mixture(&[0, 0, 0, 1, 2, 2], 4).is_caught();
    assert_eq!(failure.tensor, "router.weight");
}

#[test]
fn one_router_row_that_is_off_is_caught_and_named() {
    let pair = mixture(&[0, 1, 2, 0, 1, 2], 4).but(|half| {
        half.spoil(&experts(half).router.weight, 4, 3);
    });
    let failure = pair.is_caught();
    assert_eq!((failure.tensor.as_str(), failure.index), ("router.weight", vec![4, 3]));
}

#[test]
fn experts_under_each_others_router_rows_are_caught() {
    let pair = mixture(&[0, 1, 2, 0, 1, 2], 4).but(|half| {
        let op = &mut half.model.layers[0][1].branches[0].op;
        let Op::Experts(experts) = op else { panic!("it is a mixture") };
        experts.experts.swap(3, 4);
    });
    pair.is_caught();
}

#[test]
fn one_number_of_one_expert_that_is_off_is_caught_and_named() {
    for (part, name) in [(0, "gate"), (1, "up"), (2, "down")] {
        let pair = mixture(&[0, 1, 2, 0, 1, 2], 4).but(|half| {
            let expert = experts(half).experts[5].clone();
            let linear = [expert.gate.as_ref().unwrap(), &expert.up, &expert.down][part];
            half.spoil(&linear.weight, 1, 2);
        });
        let failure = pair.is_caught();
        assert_eq!(failure.tensor, format!("expert.5.{name}.weight"), "{failure:?}");
        assert!(failure.place.contains("expert 5"), "{failure:?}");
    }
}

#[test]
fn experts_that_the_router_cannot_tell_apart_are_unknown_if_they_differ() {
    let same_rows = |half: &mut Half| {
        let copies = experts(half).experts.len() / FEW;
        half.edit(&experts(half).router.weight, |rows| {
            for copy in 0..copies {
                let first = rows.row(copy * FEW).to_owned();
                rows.row_mut(copy * FEW + 1).assign(&first);
            }
        });
    };
    let pair = |places: &Places, active| mixture(places, active).both(same_rows);
    // One by one they are chosen by their place, in both models alike.
    assert!(pair(&[0, 1, 2], 2).certificate().proves_lossless());
    pair(&[0, 1, 2, 0, 1, 2], 4).is_unknown("cannot tell");
}

#[test]
fn a_mixture_that_writes_nothing_may_be_inserted() {
    let zero = |half: &mut Half, factor: f64| {
        for expert in experts(half).experts {
            expert.down.lenses().for_each(|lens| half.edit(lens, |matrix| *matrix *= factor));
        }
    };
    let insert = |pair: &mut Pair, factor: f64| {
        zero(&mut pair.expanded, factor);
        let inserted = pair.expanded.model.layers[0].clone();
        // The source keeps its attention in both models, and loses its mixture.
        for half in [&mut pair.source, &mut pair.expanded] {
            let mixture = half.model.layers[0].remove(1);
            for lens in mixture.branches[0].lenses() {
                if half.model.sizes.hidden == 6 {
                    half.remove(lens.name());
                }
            }
        }
        pair.expanded.model.layers[0] = inserted;
    };
    let mut right = mixture(&[0, 1, 2], 2);
    insert(&mut right, 0.0);
    right.is_proven();
    let mut wrong = mixture(&[0, 1, 2], 2);
    insert(&mut wrong, 0.01);
    wrong.is_caught();
}

#[test]
fn a_tie_of_the_router_that_rounding_would_break_is_unknown() {
    let tie = |half: &mut Half, factor: f64| {
        half.edit(&experts(half).router.weight, |rows| {
            let first = rows.row(0).to_owned() * factor;
            rows.row_mut(1).assign(&first);
        });
    };
    let pair = mixture(&[0, 1, 2], 1).both(|half| tie(half, 1.0));
    // The source always takes the first; one more unit of rounding, and half of the tokens go to
    // the second.
    let broken = pair.but(|half| tie(half, 1.0 + 2f64.powi(-52)));
    assert!(broken.apart() > 1e-3);
    broken.is_unknown("cannot tell");
}

#[test]
fn what_became_of_experts_is_told() {
    let told = |places: &Places, active: usize| {
        let maps = mixture(places, active).certificate().maps;
        let lines = maps.into_iter().filter(|map| map.space.starts_with("experts"));
        lines.map(|map| map.words).collect::<Vec<_>>()
    };
    assert_eq!(told(&[0, 1, 2], 2), ["3: as they are"]);
    assert_eq!(told(&[2, 0, 1], 2), ["3: permuted"]);
    let copies = "3 → 6: 2 copies each, copies the same, and they stay so in training";
    assert_eq!(told(&[0, 1, 2, 0, 1, 2], 4), [copies]);
}
