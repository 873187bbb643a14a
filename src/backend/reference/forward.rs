//! Operations of the forward pass, as the forward pass runs them.

use super::{Asked, matrix, one};
use crate::backend::{OpRequest, Tensors};
use crate::checkpoint::{Checkpoint, Config};
use crate::error::{Error, Result};
use crate::forward::{Weights, single};
use crate::model::{Activation, Attention, Dim, Lens, Linear, Mlp, Norm, NormKind, Rotary, Window};
use ndarray::{Array2, Axis, concatenate};

pub(super) fn answer(request: &OpRequest) -> Result<Tensors> {
    let asked = Asked(request);
    let config = Config::new("request", Default::default());
    let checkpoint = Checkpoint::in_memory("request", config, request.inputs.clone());
    let weights = Weights::new(&checkpoint);
    let x = |name: &str| Ok::<_, Error>(asked.matrix(name)?.mapv(|value| value as f32));
    let y = match request.op.as_str() {
        "linear" => single::linear(&weights, &linear(&asked, "weight", "bias")?, &x("x")?)?,
        "layer_norm" => single::normalise(&weights, &norm(&asked, NormKind::Layer)?, x("x")?)?,
        "rms_norm" => single::normalise(&weights, &norm(&asked, NormKind::Rms)?, x("x")?)?,
        "softmax" => {
            let x = x("x")?;
            let visible = mask(&asked, x.ncols())?;
            single::softmax(x, &visible)
        }
        "mlp" | "gated_mlp" => single::feed_forward(&weights, &mlp(&asked)?, &x("x")?)?,
        "embedding" => embedding(&asked, &weights)?,
        "rotary" => rotary(&asked, x("x")?)?,
        "attention" => attention(&asked)?,
        function => single::activate(activation(function)?, x("x")?),
    };
    Ok(one(y.mapv(f64::from)))
}

fn activation(name: &str) -> Result<Activation> {
    Ok(match name {
        "gelu" => Activation::GeluErf,
        "gelu_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" => Activation::Silu,
        "tanh" => Activation::Tanh,
        other => return Err(Error::unsupported(format!("no operation `{other}`"))),
    })
}

fn mask(asked: &Asked, count: usize) -> Result<Vec<bool>> {
    match asked.has("mask") {
        true => Ok(asked.integers("mask")?.into_iter().map(|bit| bit == 1).collect()),
        false => Ok(vec![true; count]),
    }
}

fn dim(size: usize) -> Dim {
    Dim::new(size, "request")
}

fn linear(asked: &Asked, weight: &str, bias: &str) -> Result<Linear> {
    let shape = asked.matrix(weight)?.dim();
    Ok(Linear {
        weight: Lens::matrix(weight, dim(shape.0), [dim(shape.1)]),
        bias: asked.has(bias).then(|| Lens::vector(bias, dim(shape.0))),
    })
}

fn norm(asked: &Asked, kind: NormKind) -> Result<Norm> {
    let columns = asked.matrix("x")?.ncols();
    let lens = |name: &str| asked.has(name).then(|| Lens::vector(name, dim(columns)));
    Ok(Norm {
        kind,
        weight: lens("weight"),
        offset: if kind == NormKind::Rms { asked.number("offset")? } else { 0.0 },
        bias: lens("bias"),
        eps: asked.number("eps")?,
        eps_field: None,
    })
}

fn mlp(asked: &Asked) -> Result<Mlp> {
    Ok(Mlp {
        up: linear(asked, "up", "up_bias")?,
        gate: asked.has("gate").then(|| linear(asked, "gate", "gate_bias")).transpose()?,
        down: linear(asked, "down", "down_bias")?,
        activation: activation(asked.word("function"))?,
    })
}

fn embedding(asked: &Asked, weights: &Weights) -> Result<Array2<f32>> {
    let shape = asked.matrix("table")?.dim();
    let lens = Lens::matrix("table", dim(shape.0), [dim(shape.1)]);
    let rows = asked.integers("ids")?.into_iter().map(|id| weights.rows(&lens, id as usize, 1));
    let rows: Vec<Array2<f32>> = rows.collect::<Result<_>>()?;
    let views: Vec<_> = rows.iter().map(|row| row.view()).collect();
    let looked_up = concatenate(Axis(0), &views).expect("rows of one table have one length");
    match asked.number("scale") {
        Ok(scale) => Ok(looked_up * scale as f32),
        Err(_) => Ok(looked_up),
    }
}

fn frequencies(asked: &Asked) -> Result<Rotary> {
    Ok(Rotary { frequencies: asked.matrix("frequencies")?.into_iter().collect() })
}

fn rotary(asked: &Asked, x: Array2<f32>) -> Result<Array2<f32>> {
    let positions: Vec<usize> = match asked.has("positions") {
        true => asked.integers("positions")?.into_iter().map(|p| p as usize).collect(),
        false => (0..x.nrows()).collect(),
    };
    Ok(single::rotate(&frequencies(asked)?, asked.count("head_dim")?, &positions, x))
}

/// Queries, keys and values lie side by side in what is read, and projections pick each of them:
/// a product with ones and zeros is exact.
fn attention(asked: &Asked) -> Result<Array2<f32>> {
    let [query, key, value] = ["query", "key", "value"].map(|name| asked.matrix(name));
    let (query, key, value) = (query?, key?, value?);
    let crossed = query.nrows() != key.nrows();
    let width = query.ncols() + key.ncols() + value.ncols();
    let pick = |first: usize, count: usize| {
        Array2::from_shape_fn((count, width), |(row, column)| f64::from(column == first + row))
    };
    let whole = Array2::from_shape_fn((query.ncols(), query.ncols()), |(i, j)| f64::from(i == j));
    let picks = [
        ("query", pick(0, query.ncols())),
        ("key", pick(query.ncols(), key.ncols())),
        ("value", pick(query.ncols() + key.ncols(), value.ncols())),
        ("output", whole),
    ];
    let lens = |(name, pick): &(&str, Array2<f64>)| Linear {
        weight: Lens::matrix(*name, dim(pick.nrows()), [dim(pick.ncols())]),
        bias: None,
    };
    let projections = [lens(&picks[0]), lens(&picks[1]), lens(&picks[2]), lens(&picks[3])];
    let tensors = picks.into_iter().map(|(name, pick)| (name.to_string(), matrix(pick)));
    let config = Config::new("request", Default::default());
    let checkpoint = Checkpoint::in_memory("request", config, tensors.collect());
    let op = Attention {
        kv_heads: asked.count("kv_heads")?,
        scale: asked.number("scale")?,
        reads_encoder: crossed,
        causal: asked.flag("causal"),
        window: asked.count("window").ok().map(|size| Window { size, field: "window" }),
        softcap: asked.number("softcap").ok(),
        rotary: asked.has("frequencies").then(|| frequencies(asked)).transpose()?,
        ..Attention::plain(projections, asked.count("heads")?, asked.count("head_dim")?)
    };
    let beside = |parts: [(usize, &Array2<f64>); 3], rows: usize| {
        let mut all = Array2::<f32>::zeros((rows, width));
        for (first, part) in parts {
            for ((row, column), value) in part.indexed_iter().filter(|((row, _), _)| *row < rows) {
                all[[row, first + column]] = *value as f32;
            }
        }
        all
    };
    let places = [0, query.ncols(), query.ncols() + key.ncols()];
    let parts = [(places[0], &query), (places[1], &key), (places[2], &value)];
    let (x, read) = (beside(parts, query.nrows()), beside(parts, key.nrows()));
    single::attend(&Weights::new(&checkpoint), &op, &x, &read, &mask(asked, key.nrows())?)
}
