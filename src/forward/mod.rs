//! The reference forward pass: what a model computes, in f64 or f32.
//!
//! It is written to be read and to be right: plain definitions over [`crate::model::Model`], no
//! caches, no fused kernels. Weights are read in blocks of rows, used and dropped, so that a model
//! larger than memory can be run; of embedding tables only the rows that are looked up are read.
//! Several inputs are run together, so that each weight is read once for all of them.

mod attention;
mod convolutional;
mod embedding;
mod experts;
mod input;
mod mlp;
mod noise;
mod norm;
mod ops;
mod real;
pub mod single;
mod variances;
mod weights;

pub use convolutional::run_convnet;
pub use input::Input;
pub use noise::{Noise, storage_noise};
pub use real::Real;
pub use variances::smallest_variances;
pub use weights::{Perturbation, Weights};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::model::{Branch, Encoder, Model, Op, Step, Sublayer};
use input::Batch;
use ndarray::{Array2, Axis, s};
use std::ops::Range;

/// What a model returned for one input.
#[derive(Clone, Debug, PartialEq)]
pub struct Outputs<R> {
    /// One for each of [`Model::outputs`], in that order.
    pub outputs: Vec<Output<R>>,
    /// The residual stream after the embedding and after each layer, each `[positions, hidden]`; of
    /// an encoder–decoder, the decoder's.
    pub hidden: Vec<Array2<R>>,
}

/// One output of a model for one input. All its numbers are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Output<R> {
    /// `logits`, `last_hidden_state`, `pooler_output`.
    pub name: &'static str,
    /// `[positions, channels]`, or `[1, channels]` where only the first position is returned.
    pub values: Array2<R>,
    /// For each row of `values`, whether it means anything. Rows at padding do not: they are
    /// computed like any other (where a causal row sees no token at all, its attention is zero),
    /// and other implementations return something else there.
    pub meaningful: Vec<bool>,
}

impl<R> Outputs<R> {
    /// The output of this name.
    pub fn get(&self, name: &str) -> Option<&Output<R>> {
        self.outputs.iter().find(|output| output.name == name)
    }
}

/// Runs `model`, whose weights are in `checkpoint`, on one input.
///
/// # Errors
/// - the input does not fit the model: see [`Input::check`]
/// - a weight cannot be read, or is NaN or infinite
/// - a number overflows: the error says in which layer
pub fn run<R: Real>(checkpoint: &Checkpoint, model: &Model, input: &Input) -> Result<Outputs<R>> {
    let mut all = run_batch(checkpoint, model, std::slice::from_ref(input))?;
    Ok(all.pop().expect("one for each input"))
}

/// Runs a model on several inputs and reads its weights once; one result for each input.
///
/// # Errors
/// As [`run`].
pub fn run_batch<R: Real>(
    checkpoint: &Checkpoint,
    model: &Model,
    inputs: &[Input],
) -> Result<Vec<Outputs<R>>> {
    run_weights(&Weights::new(checkpoint), model, inputs)
}

/// Like [`run_batch`], with weights that may be perturbed.
///
/// # Errors
/// As [`run`].
pub fn run_weights<R: Real>(
    weights: &Weights,
    model: &Model,
    inputs: &[Input],
) -> Result<Vec<Outputs<R>>> {
    if inputs.is_empty() {
        return Ok(Vec::new());
    }
    let batch = Batch::new(model, inputs)?;
    let read = model.encoder.as_ref().map(|encoder| (encoder, Batch::of_encoder(model, inputs)));
    let memory = match &read {
        Some((encoder, batch)) => Some(encode(weights, model, encoder, batch)?),
        None => None,
    };
    let run = Run { weights, model, batch: &batch, memory };
    let mut results: Vec<Outputs<R>> =
        inputs.iter().map(|_| Outputs { outputs: Vec::new(), hidden: Vec::new() }).collect();

    let mut stream = embedding::embed(weights, &model.embedding, model.sizes.hidden, &batch)?;
    run.keep(&stream, "the embedding", &mut results)?;
    for (index, layer) in model.layers.iter().enumerate() {
        for sublayer in layer {
            stream = run.sublayer(sublayer, stream)?;
        }
        run.keep(&stream, &format!("layer {index}"), &mut results)?;
    }
    for output in &model.outputs {
        let (values, rows) = run.steps(&output.steps, stream.clone())?;
        run.finite(&values, &format!("the output `{}`", output.name))?;
        for ((result, sequence), rows) in results.iter_mut().zip(&batch.sequences).zip(rows) {
            let meaningful = match rows.len() == sequence.len() {
                true => batch.visible[sequence.clone()].to_vec(),
                false => vec![true; rows.len()],
            };
            let values = values.slice(s![rows, ..]).to_owned();
            result.outputs.push(Output { name: output.name, values, meaningful });
        }
    }
    Ok(results)
}

/// What the encoder returned, for cross-attention to read.
struct Memory<'a, R> {
    /// `[positions, hidden]`.
    values: Array2<R>,
    /// What the encoder read: one sequence for each of the decoder's.
    batch: &'a Batch<'a>,
}

/// Runs the encoder.
fn encode<'a, R: Real>(
    weights: &Weights,
    model: &Model,
    encoder: &Encoder,
    batch: &'a Batch<'a>,
) -> Result<Memory<'a, R>> {
    let run = Run::<R> { weights, model, batch, memory: None };
    let mut values = embedding::embed(weights, &encoder.embedding, model.sizes.hidden, batch)?;
    for (index, layer) in encoder.layers.iter().enumerate() {
        for sublayer in layer {
            values = run.sublayer(sublayer, values)?;
        }
        run.finite(&values, &format!("the residual stream behind layer {index} of the encoder"))?;
    }
    norm::normalise(weights, &encoder.norm, &mut values)?;
    run.finite(&values, "what the encoder returns")?;
    Ok(Memory { values, batch })
}

/// One run over a stacked batch.
struct Run<'a, R> {
    weights: &'a Weights<'a>,
    model: &'a Model,
    batch: &'a Batch<'a>,
    memory: Option<Memory<'a, R>>,
}

impl<R: Real> Run<'_, R> {
    /// `post_norm(x + Σ branch(x))`.
    fn sublayer(&self, sublayer: &Sublayer, x: Array2<R>) -> Result<Array2<R>> {
        let mut sum = x.clone();
        for branch in &sublayer.branches {
            sum += &self.branch(branch, &x)?;
        }
        if let Some(norm) = &sublayer.post_norm {
            norm::normalise(self.weights, norm, &mut sum)?;
        }
        Ok(sum)
    }

    /// `scale ∘ post_norm(op(norm(x)))`.
    fn branch(&self, branch: &Branch, x: &Array2<R>) -> Result<Array2<R>> {
        let mut read = x.clone();
        if let Some(norm) = &branch.norm {
            norm::normalise(self.weights, norm, &mut read)?;
        }
        let mut written = match &branch.op {
            Op::Attention(op) => {
                let memory = self.memory.as_ref();
                attention::attention(self.weights, op, &read, self.batch, memory)?
            }
            Op::Mlp(op) => mlp::mlp(self.weights, op, &read)?,
            Op::Experts(op) => experts::experts(self.weights, op, &read)?,
        };
        if let Some(norm) = &branch.post_norm {
            norm::normalise(self.weights, norm, &mut written)?;
        }
        if let Some(scale) = &branch.scale {
            written *= &self.weights.vector::<R>(scale)?;
        }
        Ok(written)
    }

    /// Applies an output's steps; returns the stacked values and which rows are which input's.
    fn steps(
        &self,
        steps: &[Step],
        mut values: Array2<R>,
    ) -> Result<(Array2<R>, Vec<Range<usize>>)> {
        let mut rows = self.batch.sequences.clone();
        let joined = steps.iter().any(|step| matches!(step, Step::MeanWith(_)));
        let stream = joined.then(|| values.clone());
        for step in steps {
            match step {
                Step::Position(position) => {
                    let chosen: Vec<usize> = rows.iter().map(|r| r.start + position).collect();
                    values = values.select(Axis(0), &chosen);
                    rows = (0..chosen.len()).map(|i| i..i + 1).collect();
                }
                Step::MeanFrom(first) => {
                    values = ops::means(&values, &rows, *first);
                    rows = (0..rows.len()).map(|i| i..i + 1).collect();
                }
                Step::Norm(norm) => norm::normalise(self.weights, norm, &mut values)?,
                Step::Linear(layer) => values = ops::linear(self.weights, layer, &values)?,
                Step::Activation(activation) => ops::activate(*activation, &mut values),
                Step::Softcap(cap) => ops::softcap(*cap, values.view_mut()),
                Step::Scale(factor) => {
                    let factor = R::from_f64(*factor);
                    values.mapv_inplace(|value| value * factor);
                }
                Step::MeanWith(other) => {
                    let stream = stream.clone().expect("kept where a step reads it");
                    let half = R::from_f64(0.5);
                    values = (values + self.steps(other, stream)?.0).mapv(|sum| sum * half);
                }
            }
        }
        Ok((values, rows))
    }

    /// Checks the stream behind `place` and keeps each input's part of it.
    fn keep(&self, stream: &Array2<R>, place: &str, results: &mut [Outputs<R>]) -> Result<()> {
        self.finite(stream, &format!("the residual stream behind {place}"))?;
        for (result, rows) in results.iter_mut().zip(&self.batch.sequences) {
            result.hidden.push(stream.slice(s![rows.clone(), ..]).to_owned());
        }
        Ok(())
    }

    fn finite(&self, values: &Array2<R>, place: &str) -> Result<()> {
        let Some(((row, channel), value)) =
            values.indexed_iter().find(|(_, value)| !value.is_finite())
        else {
            return Ok(());
        };
        let problem = format!(
            "computed in {}, {place} of this {} is {value:?} (row {row}, channel {channel})",
            R::NAME,
            self.model.family.name
        );
        Err(Error::bad_input(problem).at(self.weights.checkpoint().path()).help(format!(
            "the numbers overflow{}; look for weights of absurd size there",
            if R::NAME == "f32" { ": compute in f64" } else { "" }
        )))
    }
}
