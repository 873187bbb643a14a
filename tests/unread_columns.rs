//! Numbers that no input is ever multiplied by say nothing of what rounding does to their rows: a
//! mistake among small numbers of the same row is no rounding of theirs.

use lemon_check::check::{Verdict, check};
use lemon_check::checkpoint::{Checkpoint, Dtype, Tensor};
use lemon_check::expand::{Free, Options, Target, expand};
use lemon_check::model::describe;
use std::path::Path;

/// Far below rounding of float64, the format of the golden files.
const SMALL: f64 = 1e-15;

fn load(case: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    Checkpoint::open(&folder, None).unwrap()
}

/// The same with every number of a tensor replaced by what `change` makes of its row, its column
/// and itself.
fn with(
    checkpoint: &Checkpoint,
    tensor: &str,
    change: impl Fn(usize, usize, f64) -> f64,
) -> Checkpoint {
    let mut tensors = checkpoint.tensors().clone();
    let old = &tensors[tensor];
    let (dtype, cols) = (old.dtype.unwrap(), *old.shape.last().unwrap());
    let value = |at| change(at / cols, at % cols, dtype.get(old.bytes(), at));
    let new = Tensor::from_values(dtype, old.shape.clone(), (0..old.len()).map(value));
    tensors.insert(tensor.to_string(), new);
    Checkpoint::in_memory("changed", checkpoint.config().clone(), tensors)
}

/// Asserts that the numbers of row 2 of `tensor` in the columns that `live` says are held, though
/// they are small, and that their model is proven equal to itself.
fn are_held(source: &Checkpoint, tensor: &str, live: impl Fn(usize) -> bool) {
    let verdict = |expanded: &Checkpoint| check(source, expanded, &|_, _| ()).unwrap().verdict;
    let factor = |row, col| if row == 2 && live(col) { 1.5 } else { 1.0 };
    let wrong = with(source, tensor, |row, col, value| value * factor(row, col));
    assert_eq!(verdict(source), Verdict::Lossless);
    assert_ne!(verdict(&wrong), Verdict::Lossless, "{tensor}");
}

/// What the second head's second channel holds is small, and made large again behind it.
fn with_small_values(model: Checkpoint, live: impl Fn(usize) -> bool) -> Checkpoint {
    let small = |row, col, value| if row == 2 && live(col) { SMALL * value } else { value };
    let model = with(&model, "layers.0.self_attn.v_proj.weight", small);
    let large = |_, col, value| if col % 6 == 2 { value / SMALL } else { value };
    with(&model, "layers.0.self_attn.o_proj.weight", large)
}

#[test]
fn numbers_beside_those_for_channels_that_nothing_writes_are_held() {
    let live = |channel: usize| channel < 5;
    let zero = |kept: bool, value| if kept { value } else { 0.0 };
    let mut model = with(&load("llama-base"), "embed_tokens.weight", |_, c, v| zero(live(c), v));
    for layer in 0..2 {
        for writer in ["self_attn.o_proj", "mlp.down_proj"] {
            let name = format!("layers.{layer}.{writer}.weight");
            model = with(&model, &name, |row, _, v| zero(live(row), v));
        }
    }
    are_held(&with_small_values(model, live), "layers.0.self_attn.v_proj.weight", live);
}

#[test]
fn numbers_beside_those_for_channels_that_one_token_has_are_held() {
    let live = |channel: usize| channel < 5;
    let rare = |row, col, value| if live(col) || row == 7 { value } else { 0.0 };
    let model = with(&load("llama-base"), "embed_tokens.weight", rare);
    are_held(&with_small_values(model, live), "layers.0.self_attn.v_proj.weight", live);
}

#[test]
fn numbers_beside_those_for_channels_that_the_norm_takes_away_are_held() {
    let live = |channel: usize| channel < 5;
    let taken = |_, channel, value| if live(channel) { value } else { 0.0 };
    let model = with(&load("llama-base"), "layers.0.input_layernorm.weight", taken);
    are_held(&with_small_values(model, live), "layers.0.self_attn.v_proj.weight", live);
}

#[test]
fn numbers_beside_those_for_neurons_that_read_nothing_are_held() {
    let live = |neuron: usize| neuron < 8;
    let up = |row, _, value| if live(row) { value } else { 0.0 };
    let mut model = with(&load("llama-base"), "layers.0.mlp.up_proj.weight", up);
    model = with(&model, "layers.0.mlp.down_proj.weight", |row, neuron, value| {
        if row == 2 && live(neuron) { SMALL * value } else { value }
    });
    // Nothing else writes the channel, and what reads it makes it large.
    model = with(&model, "embed_tokens.weight", |_, c, v| if c == 2 { 0.0 } else { v });
    let nothing = |row, _, value| if row == 2 { 0.0 } else { value };
    model = with(&model, "layers.0.self_attn.o_proj.weight", nothing);
    model = with(
        &model,
        "layers.1.self_attn.v_proj.weight",
        |_, c, v| {
            if c == 2 { v / SMALL } else { v }
        },
    );
    are_held(&model, "layers.0.mlp.down_proj.weight", live);
}

/// The model with biases of zero in every layer of its sublayers.
fn with_biases(checkpoint: &Checkpoint) -> Checkpoint {
    let (mut config, mut tensors) = (checkpoint.config().clone(), checkpoint.tensors().clone());
    config.set("attention_bias", true);
    config.set("mlp_bias", true);
    for (name, tensor) in checkpoint.tensors() {
        if let Some(layer) = name.strip_suffix("_proj.weight") {
            let rows = tensor.shape[0];
            let bias = Tensor::from_values(tensor.dtype.unwrap(), vec![rows], vec![0.0; rows]);
            tensors.insert(format!("{layer}_proj.bias"), bias);
        }
    }
    Checkpoint::in_memory("biased", config, tensors)
}

/// The model with channel 2 of the stream written by `writer` of layer 1 alone.
fn with_one_writer(mut model: Checkpoint, writer: &str) -> Checkpoint {
    model = with(&model, "embed_tokens.weight", |_, c, v| if c == 2 { 0.0 } else { v });
    let names = [0, 1].map(|l| ["self_attn.o", "mlp.down"].map(|w| format!("layers.{l}.{w}_proj")));
    for name in names.into_iter().flatten().filter(|name| name != writer) {
        let nothing = |row, _, value| if row == 2 { 0.0 } else { value };
        model = with(&model, &format!("{name}.weight"), nothing);
    }
    with(&model, "norm.weight", |_, c, v| if c == 2 { 1.0 / SMALL } else { v })
}

#[test]
fn numbers_for_neurons_that_are_made_of_their_bias_are_held() {
    let (up, gate) = ("layers.1.mlp.up_proj", "layers.1.mlp.gate_proj");
    let mut model = with_one_writer(with_biases(&load("llama-base")), "layers.1.mlp.down_proj");
    // All others are nothing beside the neuron that is constant.
    let tiny = |row, _, value| 1e-3 * SMALL * value * if row == 5 { 1e-3 } else { 1.0 };
    model = with(&model, &format!("{up}.weight"), tiny);
    model = with(&model, &format!("{up}.bias"), |_, row, _| if row == 5 { 2.0 } else { 0.0 });
    model = with(&model, &format!("{gate}.bias"), |_, row, _| if row == 5 { 3.0 } else { 0.0 });
    let down = "layers.1.mlp.down_proj.weight";
    model = with(&model, down, |row, c, v| if (row, c) == (2, 5) { SMALL } else { v });
    are_held(&model, down, |column| column == 5);
}

#[test]
fn numbers_for_values_that_are_their_bias_are_held() {
    let (value, output) = ("layers.1.self_attn.v_proj", "layers.1.self_attn.o_proj");
    let mut model = with_one_writer(with_biases(&load("llama-base")), output);
    let tiny = |row, _, number| 1e-3 * SMALL * number * if row == 1 { 1e-3 } else { 1.0 };
    model = with(&model, &format!("{value}.weight"), tiny);
    model = with(&model, &format!("{value}.bias"), |_, row, _| if row == 1 { 5.0 } else { 0.0 });
    let output = format!("{output}.weight");
    // The columns of all heads that read this value.
    let sizes = describe(&model).unwrap().sizes;
    let (dim, group) = (sizes.head_dim, sizes.heads / sizes.kv_heads);
    let live = |column: usize| column % dim == 1 && column / dim < group;
    model = with(&model, &output, |row, c, v| if row == 2 && live(c) { SMALL } else { v });
    are_held(&model, &output, live);
}

#[test]
fn rounding_beside_which_others_are_live_blurs_no_factor() {
    // Channel 11 is zero for every input; its copies are read with +z and −z.
    let mut model = load("llama-base");
    model = with(&model, "embed_tokens.weight", |_, c, v| if c == 11 { 0.0 } else { v });
    for layer in 0..2 {
        for writer in ["self_attn.o_proj", "mlp.down_proj"] {
            let name = format!("layers.{layer}.{writer}.weight");
            model = with(&model, &name, |row, _, v| if row == 11 { 0.0 } else { v });
        }
    }
    for name in ["self_attn.v_proj", "self_attn.k_proj", "mlp.up_proj"] {
        let name = format!("layers.0.{name}.weight");
        let source = with(&model, &name, |_, c, v| if c == 11 { 2.0 } else { v });
        let target = Target { hidden: Some(24), heads: Some(4), ..Target::default() };
        let options = Options { target, free: Free::Equal, ..Options::default() };
        let right = expand(&source, &describe(&source).unwrap(), &options).unwrap();
        let split = |row, col| match (row, col) {
            (2, 11) => 1e14,
            (2, 23) => -1e14,
            _ => 0.0,
        };
        let hidden = with(&right, &name, |r, c, v| v + split(r, c));
        let factor = |row, col| if row == 2 && col % 12 != 11 { 1.3 } else { 1.0 };
        let wrong = with(&right, &name, |r, c, v| v * factor(r, c) + split(r, c));
        let verdict = |expanded| check(&source, expanded, &|_, _| ()).unwrap().verdict;
        assert_ne!(verdict(&hidden), Verdict::NotLossless, "{name}");
        assert_ne!(verdict(&wrong), Verdict::Lossless, "{name}");
    }
}

/// The model in float32, with all that writes to its stream centred, and nothing in channel 3: the
/// norms, without β, return nothing there.
fn with_a_silent_channel(mut model: Checkpoint) -> Checkpoint {
    for name in model.tensors().keys().cloned().collect::<Vec<_>>() {
        let tensor = &model.tensors()[&name];
        let values: Vec<f64> =
            (0..tensor.len()).map(|at| Dtype::F64.get(tensor.bytes(), at)).collect();
        let writes = name.starts_with('w') || name.contains("c_proj");
        let beta = name.contains("ln_") && name.ends_with("bias");
        let value = |at: usize| {
            let (row, channel) = (&values[at / 16 * 16..at / 16 * 16 + 16], at % 16);
            match beta || (writes && channel == 3) {
                true => 0.0,
                false if writes => values[at] - (row.iter().sum::<f64>() - row[3]) / 15.0,
                false => values[at],
            }
        };
        let all = (0..values.len()).map(value);
        let tensor = Tensor::from_values(Dtype::F32, tensor.shape.clone(), all);
        let mut tensors = model.tensors().clone();
        tensors.insert(name, tensor);
        model = Checkpoint::in_memory("silent", model.config().clone(), tensors);
    }
    model
}

/// Equations of a LayerNorm take the rounding of a row's mean for independent in every column, so
/// that a giant beside them loosens them all: outputs show what they miss, also hidden ones.
#[test]
fn a_giant_in_a_column_that_is_always_zero_hides_no_mistake() {
    let source = with_a_silent_channel(load("gpt2-base"));
    let target =
        Target { hidden: Some(32), heads: Some(8), intermediate: Some(128), ..Target::default() };
    let options = Options { target, free: Free::Equal, ..Options::default() };
    let right = expand(&source, &describe(&source).unwrap(), &options).unwrap();
    let gamma = |channel| {
        let tensor = &right.tensors()["h.1.ln_1.weight"];
        Dtype::F32.get(tensor.bytes(), channel)
    };
    let name = "h.1.attn.c_attn.weight";
    let weight = &right.tensors()[name];
    let wrong = |row: usize, col: usize, value: f64| {
        let other = Dtype::F32.get(weight.bytes(), (row + 5) % 32 * 96 + col);
        match (row, col < 32) {
            (3, true) => 2e8,
            (19, true) => -2e8 * gamma(3) / gamma(19),
            (_, true) => other,
            _ => value,
        }
    };
    let verdict = |expanded| check(&source, expanded, &|_, _| ()).unwrap().verdict;
    assert_eq!(verdict(&right), Verdict::Lossless);
    assert_ne!(verdict(&with(&right, name, wrong)), Verdict::Lossless);
}

#[test]
fn numbers_without_squares_are_not_taken_for_zero() {
    let names = ["layers.0.self_attn.v_proj.weight", "layers.0.self_attn.o_proj.weight"];
    let small = with(&load("llama-base"), names[0], |_, _, value| 1e-170 * value);
    let model = with(&small, names[1], |_, _, value| 1e170 * value);
    let factor = |row: usize, col: usize| if (row + col).is_multiple_of(2) { 2.0 } else { 1.0 };
    let wrong = with(&model, names[1], |row, col, value| factor(row, col) * value);
    let checked = check(&model, &wrong, &|_, _| ()).unwrap();
    assert_ne!(checked.verdict, Verdict::Lossless);
    let told = format!("{:?}", checked.certificate.unknown);
    assert!(told.contains("power of two"), "{told}");
}
