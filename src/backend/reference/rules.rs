//! The rules, as expansion computes them.

use super::{Asked, matrix, one};
use crate::backend::ops::{MEAN, ZERO};
use crate::backend::{OpRequest, Tensors};
use crate::checkpoint::{Dtype, Tensor};
use crate::error::{Error, Result};
use crate::expand::rules::{
    Entry, Map, Share, cancelling, copy_heads, layer_scale, linear, norm, norm_reads,
    norms_in_a_row, opposite, rotary_channels, rows_of, tied_growth, vector,
};
use crate::model::NormKind;
use ndarray::{Array2, Axis};

pub(super) fn answer(request: &OpRequest) -> Result<Tensors> {
    let asked = Asked(request);
    let map = |name: &str| map(&asked, name);
    match request.op.as_str() {
        "rule_linear" => {
            let share = match asked.word("share") {
                "first" => Share::First,
                "last" => Share::Last,
                _ => Share::Equal,
            };
            let initial = match asked.has("initial") {
                true => asked.matrix("initial")?,
                false => Array2::zeros((0, 0)),
            };
            let (rows, columns) = (map("rows")?, map("columns")?);
            let weight = asked.matrix("weight")?;
            Ok(one(linear(&weight, &rows, &columns, share, rows_of(&initial))?))
        }
        "rule_cancelling" => {
            let initial = asked.matrix("initial")?;
            Ok(one(cancelling(&map("rows")?, &map("columns")?, rows_of(&initial))?))
        }
        "rule_opposite" => {
            Ok(one(opposite(&asked.matrix("weight")?, &map("rows")?, &map("columns")?)?))
        }
        "rule_vector" => {
            let residue = asked.matrix("residue")?;
            let stored = asked.matrix("stored")?;
            let free = |index: usize| residue[[index, 0]];
            let y = vector(&stored, &map("map")?, asked.number("offset")?, free)?;
            Ok([("y".to_string(), column(y))].into())
        }
        "rule_rows" => Ok(one(map("map")?.expand_rows(&asked.matrix("matrix")?))),
        "rule_columns" => Ok(one(map("map")?.expand_columns(&asked.matrix("matrix")?)?)),
        "rule_norm" => norm_answer(&asked),
        "rule_norms_in_a_row" => {
            let row = norms_in_a_row(asked.number("eps")?, asked.count("count")?);
            Ok([("gain".into(), number(row.gain)), ("eps".into(), number(row.eps))].into())
        }
        "rule_layer_scale" => {
            let (gains, stream) = (asked.matrix("gains")?, map("stream")?);
            let rule = layer_scale(&gains, &stream)?;
            let write = matrix(rule.write.expand_rows(&Array2::eye(stream.sources())));
            Ok([("factors".into(), column(rule.factors)), ("write".into(), write)].into())
        }
        "rule_tied_growth" => {
            Ok([("y".into(), number(tied_growth(&map("table")?, &map("read")?)))].into())
        }
        "rule_copy_heads" => heads_answer(&asked),
        "rule_rotary_channels" => {
            let frequencies =
                |name: &str| Ok::<_, Error>(asked.matrix(name)?.into_raw_vec_and_offset().0);
            let sizes = (asked.count("source_dim")?, asked.count("expanded_dim")?);
            let found = rotary_channels(&frequencies("source")?, &frequencies("expanded")?, sizes);
            let map = found.ok_or_else(|| Error::refused("a channel finds no place"))?;
            let entries = map.entries().iter().map(|entry| match entry {
                Entry::Copy(channel) => *channel as i64,
                Entry::Mean => MEAN,
                Entry::Zero => ZERO,
            });
            Ok([("entries".into(), Tensor::from_integers(vec![map.len()], entries))].into())
        }
        other => Err(Error::unsupported(format!("no rule `{other}`"))),
    }
}

fn map(asked: &Asked, name: &str) -> Result<Map> {
    let entries = asked.integers(&format!("{name}_entries"))?;
    let entry = |entry: i64| match entry {
        MEAN => Entry::Mean,
        copied => usize::try_from(copied).map_or(Entry::Zero, Entry::Copy),
    };
    let sources = asked.count(&format!("{name}_sources"))?;
    let map = Map::new(sources, entries.into_iter().map(entry))?;
    Ok(map.scaled(asked.number(&format!("{name}_scale"))?))
}

fn column(values: Array2<f64>) -> Tensor {
    let values = values.remove_axis(Axis(1));
    Tensor::from_values(Dtype::F32, vec![values.len()], values)
}

fn number(value: f64) -> Tensor {
    Tensor::from_values(Dtype::F32, vec![1], [value])
}

fn norm_answer(asked: &Asked) -> Result<Tensors> {
    let (gamma, beta) = (asked.matrix("weight")?, asked.matrix("bias")?);
    let residue = asked.matrix("residue")?;
    let kind = if asked.word("kind") == "layer" { NormKind::Layer } else { NormKind::Rms };
    let read = norm_reads(kind, gamma.nrows(), asked.count("expanded")?);
    let read = read.scaled(asked.number("read_scale")?);
    let rule = norm(kind, &read, asked.number("write_scale")?, true)?;
    let offset = asked.number("offset")?;
    let weight = vector(&gamma, &rule.weight, offset, |index| residue[[index, 0]])?;
    let bias = vector(&beta, &rule.bias, 0.0, |_| 0.0)?;
    Ok([
        ("weight".to_string(), column(weight)),
        ("bias".to_string(), column(bias)),
        ("eps_factor".to_string(), number(rule.eps_factor)),
    ]
    .into())
}

fn heads_answer(asked: &Asked) -> Result<Tensors> {
    let counts = |heads: &str, kv: &str| Ok::<_, Error>((asked.count(heads)?, asked.count(kv)?));
    let source = counts("source_heads", "source_kv_heads")?;
    let expanded = counts("heads", "kv_heads")?;
    let heads = copy_heads(source, expanded)
        .ok_or_else(|| Error::refused(format!("{source:?} heads cannot become {expanded:?}")))?;
    let list = |indices: Vec<usize>| {
        Tensor::from_integers(vec![indices.len()], indices.into_iter().map(|index| index as i64))
    };
    Ok([("query".into(), list(heads.query)), ("key_value".into(), list(heads.key_value))].into())
}
