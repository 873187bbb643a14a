//! Pointwise functions and the feed-forward networks around them.
//!
//! `gelu` (with the error function), `gelu_tanh`, `relu`, `silu` and `tanh` read `x`
//! `[rows, columns]` and return `y` of the same shape.
//!
//! `mlp` reads `x` `[rows, hidden]`, `up` `[neurons, hidden]`, `down` `[hidden, neurons]`, maybe
//! `up_bias` and `down_bias`, and `function`, the name of a pointwise function; it returns `y =
//! down(function(up(x)))`. `gated_mlp` also reads `gate` `[neurons, hidden]`, maybe `gate_bias`,
//! and returns `y = down(function(gate(x)) · up(x))`.

use super::linear::linear;
use super::{Inputs, Maker, Outputs};
use crate::backend::bound::{Bounded, Format};
use crate::forward::Real;
use crate::testing::random::Draw;
use num_traits::{One, Zero};
use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

const FUNCTIONS: [&str; 5] = ["gelu", "gelu_tanh", "relu", "silu", "tanh"];

pub(super) fn make(maker: &mut Maker) {
    let [rows, columns] = ["rows", "columns"].map(|name| maker.size(name));
    maker.numbers("x", &[rows, columns]);
}

pub(super) fn make_mlp(maker: &mut Maker) {
    let [rows, hidden, neurons] = ["rows", "hidden", "neurons"].map(|name| maker.size(name));
    let function = maker.random("function").pick(&FUNCTIONS);
    maker.set("function", function);
    maker.numbers("x", &[rows, hidden]);
    projection(maker, "up", neurons, hidden);
    projection(maker, "down", hidden, neurons);
}

pub(super) fn make_gated(maker: &mut Maker) {
    make_mlp(maker);
    let [hidden, neurons] = ["hidden", "neurons"].map(|name| maker.size(name));
    projection(maker, "gate", neurons, hidden);
}

fn projection(maker: &mut Maker, name: &str, outputs: usize, inputs: usize) {
    maker.weights(name, &[outputs, inputs], 0.0, 1.0 / (inputs as f64).sqrt());
    if maker.on("bias") {
        maker.weights(&format!("{name}_bias"), &[outputs], 0.0, 0.5);
    }
}

macro_rules! pointwise {
    ($($name:ident),*) => {$(
        pub(super) fn $name<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
            Outputs::matrix("y", inputs.matrix("x").mapv(|x| apply(stringify!($name), x)))
        }
    )*};
}

pointwise!(gelu, gelu_tanh, relu, silu, tanh);

pub(super) fn mlp<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let function = inputs.word("function");
    let neurons = project(inputs, "up").mapv(|x| apply(function, x));
    down(inputs, &neurons)
}

pub(super) fn gated_mlp<F: Format>(inputs: &Inputs<F>) -> Outputs<F> {
    let function = inputs.word("function");
    let gate = project(inputs, "gate").mapv(|x| apply(function, x));
    down(inputs, &(gate * project(inputs, "up")))
}

type Matrix<F> = ndarray::Array2<Bounded<F>>;

fn project<F: Format>(inputs: &Inputs<F>, name: &str) -> Matrix<F> {
    affine(inputs, name, &inputs.matrix("x"))
}

fn down<F: Format>(inputs: &Inputs<F>, neurons: &Matrix<F>) -> Outputs<F> {
    Outputs::matrix("y", affine(inputs, "down", neurons))
}

fn affine<F: Format>(inputs: &Inputs<F>, name: &str, x: &Matrix<F>) -> Matrix<F> {
    let bias = format!("{name}_bias");
    let bias = inputs.has(&bias).then(|| inputs.vector(&bias));
    linear(x, &inputs.matrix(name), bias.as_ref())
}

/// A pointwise function by its name.
fn apply<F: Format>(function: &str, x: Bounded<F>) -> Bounded<F> {
    let (one, half) = (Bounded::one(), Bounded::exact(0.5));
    let constant = |value: f64| Bounded::from_f64(value);
    match function {
        "gelu" => half * x * (one + (x * constant(FRAC_1_SQRT_2)).erf()),
        "gelu_tanh" => {
            let cubic = constant(0.044715) * x * x * x;
            let inner = constant(FRAC_2_SQRT_PI * FRAC_1_SQRT_2) * (x + cubic);
            half * x * (one + inner.tanh())
        }
        "relu" => x.positive_part(),
        "silu" => x / (one + (Bounded::zero() - x).exp()),
        _ => x.tanh(),
    }
}
