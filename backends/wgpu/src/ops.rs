//! Operations of the forward pass, by name.

use crate::asked::Asked;
use crate::device::Array;
use crate::failure::{Failure, Result, error};
use crate::kernels::{self, Function, Heads, Norm, Visible};
use crate::tensors::{Output, Outputs};

/// What can be asked for.
pub const NAMES: [&str; 14] = [
    "linear",
    "layer_norm",
    "rms_norm",
    "softmax",
    "gelu",
    "gelu_tanh",
    "relu",
    "silu",
    "tanh",
    "mlp",
    "gated_mlp",
    "embedding",
    "rotary",
    "attention",
];

/// Computes the operation of this name.
///
/// # Errors
/// If there is none, or it cannot be computed of what is given.
pub fn answer(asked: &Asked, op: &str) -> Result<Outputs> {
    let y = match op {
        "linear" => affine(asked, &asked.matrix("x")?, "weight", "bias"),
        "layer_norm" => norm(asked, true),
        "rms_norm" => norm(asked, false),
        "softmax" => softmax(asked),
        "gelu" | "gelu_tanh" | "relu" | "silu" | "tanh" => {
            kernels::one(asked.device, Function::named(op)?, &asked.matrix("x")?, 0.0)
        }
        "mlp" => mlp(asked, false),
        "gated_mlp" => mlp(asked, true),
        "embedding" => embedding(asked),
        "rotary" => rotary(asked),
        "attention" => attention(asked),
        other => return Err(Failure::Unsupported(format!("the operation `{other}`"))),
    };
    Ok(vec![("y".to_string(), Output::Numbers(y?))])
}

/// x Wᵀ + b, where there is a bias.
fn affine(asked: &Asked, x: &Array, weight: &str, bias: &str) -> Result<Array> {
    let name = weight;
    let weight = asked.matrix(name)?;
    if weight.columns() != x.columns() {
        let (reads, given) = (weight.columns(), x.columns());
        return Err(error(format!("`{name}` reads {reads} channels of {given}")));
    }
    let bias = asked.maybe(bias, &[weight.rows()])?;
    kernels::linear(asked.device, x, &weight, bias.as_ref(), false)
}

fn norm(asked: &Asked, centred: bool) -> Result<Array> {
    let x = asked.matrix("x")?;
    let columns = x.columns();
    let [weight, bias] = ["weight", "bias"].map(|name| asked.maybe(name, &[columns]));
    let (weight, bias) = (weight?, bias?);
    let norm = Norm {
        centred,
        weight: weight.as_ref(),
        bias: bias.as_ref(),
        eps: asked.number("eps")?,
        offset: asked.maybe_number("offset")?.unwrap_or(0.0),
    };
    kernels::norm(asked.device, &x, columns, &norm)
}

fn softmax(asked: &Asked) -> Result<Array> {
    let x = asked.matrix("x")?;
    let mask = mask(asked, x.columns())?;
    let visible = Visible { mask: mask.as_ref(), ..Visible::default() };
    kernels::softmax(asked.device, &x, x.rows().max(1), visible)
}

/// The mask, where there is one: 1 visible, 0 hidden.
fn mask(asked: &Asked, columns: usize) -> Result<Option<Array>> {
    let given = asked.tensors.has("mask");
    given.then(|| asked.integers("mask", Some(columns), (0, 1))).transpose()
}

fn mlp(asked: &Asked, gated: bool) -> Result<Array> {
    let device = asked.device;
    let function = Function::named(asked.word("function")?)?;
    let x = asked.matrix("x")?;
    let up = affine(asked, &x, "up", "up_bias")?;
    let neurons = match gated {
        false => kernels::one(device, function, &up, 0.0)?,
        true => {
            let gate = affine(asked, &x, "gate", "gate_bias")?;
            if gate.shape != up.shape {
                return Err(error("`gate` and `up` differ in their neurons"));
            }
            let gate = kernels::one(device, function, &gate, 0.0)?;
            kernels::two(device, Function::Multiply, &gate, &up)?
        }
    };
    affine(asked, &neurons, "down", "down_bias")
}

fn embedding(asked: &Asked) -> Result<Array> {
    let table = asked.matrix("table")?;
    let ids = asked.integers("ids", None, (0, table.rows() as i64 - 1))?;
    let scale = asked.maybe_number("scale")?.unwrap_or(1.0);
    kernels::embedding(asked.device, &table, &ids, scale)
}

fn rotary(asked: &Asked) -> Result<Array> {
    let x = asked.matrix("x")?;
    let head_dim = asked.count("head_dim")?;
    if x.columns() % head_dim != 0 {
        return Err(error(format!("`x` has no heads of {head_dim} channels")));
    }
    let frequencies = frequencies(asked, head_dim)?;
    let given = asked.tensors.has("positions");
    let range = (0, i32::MAX.into());
    let positions =
        given.then(|| asked.integers("positions", Some(x.rows()), range)).transpose()?;
    kernels::rotary(asked.device, &x, &frequencies, head_dim, positions.as_ref())
}

fn frequencies(asked: &Asked, head_dim: usize) -> Result<Array> {
    let pairs = asked.tensors.shape("frequencies")?.first().copied().unwrap_or(0);
    if pairs == 0 || 2 * pairs > head_dim {
        return Err(error(format!("{pairs} pairs in a head of {head_dim} channels")));
    }
    asked.numbers("frequencies", &[pairs])
}

fn attention(asked: &Asked) -> Result<Array> {
    let [heads, kv_heads, head_dim] =
        ["heads", "kv_heads", "head_dim"].map(|name| asked.count(name));
    let counts = Heads { heads: heads?, kv_heads: kv_heads?, head_dim: head_dim? };
    if !counts.heads.is_multiple_of(counts.kv_heads) {
        return Err(error("`kv_heads` does not divide `heads`"));
    }
    let mut query = asked.matrix("query")?;
    let mut key = asked.matrix("key")?;
    let keys = key.rows();
    let value = asked.numbers("value", &key.shape)?;
    let widths = [counts.heads, counts.kv_heads].map(|heads| heads * counts.head_dim);
    if [query.columns(), key.columns()] != widths {
        return Err(error(format!("queries and keys are not {widths:?} wide")));
    }
    if asked.tensors.has("frequencies") {
        let frequencies = frequencies(asked, counts.head_dim)?;
        for x in [&mut query, &mut key] {
            *x = kernels::rotary(asked.device, x, &frequencies, counts.head_dim, None)?;
        }
    }
    let mask = mask(asked, keys)?;
    let visible = Visible {
        mask: mask.as_ref(),
        causal: asked.flag("causal"),
        window: asked.maybe_count("window")?,
    };
    let logits = (asked.number("scale")?, asked.maybe_number("softcap")?);
    kernels::attention(asked.device, [&query, &key, &value], counts, logits, visible)
}
