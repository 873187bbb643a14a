//! How large what a matrix multiplies usually is, column by column.
//!
//! A number that is multiplied by nothing is no measure of what rounding does to its row: a channel
//! of the stream may be zero for every input, a norm's weight zero, a neuron without weights. What
//! is said here is a yardstick for [`super::floors`], from the embeddings, the norm in front, and
//! the rows and biases that make a neuron or a value. It need not be exact, but it must not take
//! what is live for nothing: then others, which may multiply nothing, would be the measure of rows.

use crate::checkpoint::Checkpoint;
use crate::model::{
    Activation, Attention, Embedding, Lens, Linear, Mlp, Model, Norm, NormKind, Op, Step,
};
use std::collections::BTreeMap;

/// Rows of a table that the sizes of its channels are taken from.
const SAMPLES: usize = 32;

/// A matrix: its tensor's name and where in it it begins.
pub(super) type Key = (String, usize);

/// The key of a matrix.
pub(super) fn key(lens: &Lens) -> Key {
    (lens.name().to_string(), lens.position(0, 0))
}

/// What the columns of each matrix of a model multiply.
pub(super) struct Inputs<'a> {
    /// Usual sizes of the embeddings' channels: plain, and without the mean of their row.
    streams: Vec<[Vec<f64>; 2]>,
    reads: BTreeMap<Key, Reads<'a>>,
}

/// What a matrix multiplies.
#[derive(Clone, Copy)]
enum Reads<'a> {
    /// A stream, by its number, behind a norm.
    Stream(usize, Option<&'a Norm>),
    Neurons(&'a Mlp),
    Heads(&'a Attention),
}

impl<'a> Inputs<'a> {
    /// Those of a model.
    pub fn of(checkpoint: &Checkpoint, model: &'a Model) -> Self {
        let mut inputs = Inputs { streams: Vec::new(), reads: BTreeMap::new() };
        let memory = model.encoder.as_ref().map(|encoder| {
            inputs.stack(checkpoint, (&encoder.embedding, &encoder.layers), None);
            Reads::Stream(0, Some(&encoder.norm))
        });
        let last = inputs.stack(checkpoint, (&model.embedding, &model.layers), memory);
        let stream = inputs.streams.len() - 1;
        for output in &model.outputs {
            let mut norm = last;
            for step in &output.steps {
                match step {
                    Step::Norm(own) => norm = Some(own),
                    Step::Linear(linear) => {
                        inputs.add(linear, Reads::Stream(stream, norm));
                        break;
                    }
                    Step::Position(_) | Step::MeanFrom(_) | Step::Scale(_) => {}
                    Step::Activation(_) | Step::Softcap(_) | Step::MeanWith(_) => break,
                }
            }
        }
        inputs
    }

    /// Adds a stack of layers; returns the last norm that writes its stream.
    fn stack(
        &mut self,
        checkpoint: &Checkpoint,
        (embedding, layers): (&'a Embedding, &'a [Vec<crate::model::Sublayer>]),
        memory: Option<Reads<'a>>,
    ) -> Option<&'a Norm> {
        self.streams.push([false, true].map(|centred| channels(checkpoint, embedding, centred)));
        let stream = self.streams.len() - 1;
        let mut written = embedding.norm.as_ref();
        for sublayer in layers.iter().flatten() {
            for branch in &sublayer.branches {
                let reads = Reads::Stream(stream, branch.norm.as_ref().or(written));
                match &branch.op {
                    Op::Attention(attention) => {
                        let keys = memory.filter(|_| attention.reads_encoder).unwrap_or(reads);
                        self.add(&attention.query, reads);
                        self.add(&attention.key, keys);
                        self.add(&attention.value, keys);
                        self.add(&attention.output, Reads::Heads(attention));
                    }
                    Op::Mlp(mlp) => self.add_mlp(mlp, reads),
                    Op::Experts(experts) => {
                        self.add(&experts.router, reads);
                        experts.experts.iter().for_each(|mlp| self.add_mlp(mlp, reads));
                    }
                }
            }
            written = sublayer.post_norm.as_ref().or(written);
        }
        written
    }

    fn add_mlp(&mut self, mlp: &'a Mlp, reads: Reads<'a>) {
        self.add(&mlp.up, reads);
        mlp.gate.iter().for_each(|gate| self.add(gate, reads));
        self.add(&mlp.down, Reads::Neurons(mlp));
    }

    fn add(&mut self, linear: &Linear, reads: Reads<'a>) {
        self.reads.insert(key(&linear.weight), reads);
    }

    /// The usual size of what each column of a matrix multiplies, relative to the others; `None`
    /// where nothing is known. `lines` are the usual sizes of another matrix's rows and columns.
    pub fn sizes(
        &self,
        checkpoint: &Checkpoint,
        lens: &Lens,
        lines: &dyn Fn(&Lens) -> [Vec<f64>; 2],
    ) -> Option<Vec<f64>> {
        let made = |linear: &Linear| self.made(checkpoint, linear, lines);
        let sizes = match self.reads.get(&key(lens))? {
            Reads::Stream(stream, norm) => {
                let centred = norm.is_some_and(|norm| norm.kind == NormKind::Layer);
                let sizes = self.streams[*stream][usize::from(centred)].clone();
                norm.map_or(Some(sizes.clone()), |norm| behind(norm, sizes, checkpoint))?
            }
            Reads::Neurons(mlp) => {
                let activated = |made: Vec<Made>| -> Vec<f64> {
                    made.iter().map(|made| made.activated(mlp.activation)).collect()
                };
                let up = made(&mlp.up)?;
                match &mlp.gate {
                    None => activated(up),
                    Some(gate) => {
                        let gates = activated(made(gate)?);
                        up.iter().zip(gates).map(|(up, gate)| up.size() * gate).collect()
                    }
                }
            }
            Reads::Heads(attention) => {
                let (values, dim) = (made(&attention.value)?, attention.head_dim);
                let shared = attention.heads / attention.kv_heads;
                let of = |head: usize| values[head / shared * dim..][..dim].iter().map(Made::size);
                (0..attention.heads).flat_map(of).collect()
            }
        };
        let known = sizes.len() == lens.cols() && sizes.iter().any(|size| *size > 0.0);
        known.then_some(sizes)
    }

    /// What each row of a layer makes.
    fn made(
        &self,
        checkpoint: &Checkpoint,
        linear: &Linear,
        lines: &dyn Fn(&Lens) -> [Vec<f64>; 2],
    ) -> Option<Vec<Made>> {
        let [rows, columns] = lines(&linear.weight);
        let inputs = self.sizes(checkpoint, &linear.weight, lines);
        let input = |column: usize| inputs.as_ref().map_or(1.0, |inputs| inputs[column]);
        let terms = columns.iter().enumerate().map(|(at, size)| (size * input(at)).powi(2));
        let reads = terms.sum::<f64>().sqrt();
        let biases = match &linear.bias {
            Some(bias) => bias.read(checkpoint).ok()?.into_iter().collect(),
            None => vec![0.0; rows.len()],
        };
        let made = rows.iter().zip(biases);
        Some(made.map(|(row, constant)| Made { spread: row * reads, constant }).collect())
    }
}

/// What a row of a layer makes: a constant, its bias, and what its weights make of usual inputs.
struct Made {
    constant: f64,
    spread: f64,
}

impl Made {
    /// Its usual size.
    fn size(&self) -> f64 {
        self.constant.abs() + self.spread
    }

    /// The usual size of what an activation makes of it: a gate may be closed by its bias.
    fn activated(&self, activation: Activation) -> f64 {
        let passed = |x: f64| match activation {
            Activation::Relu => x.max(0.0),
            Activation::Tanh => x.abs().min(1.0),
            Activation::Silu => (x / (1.0 + (-x).exp())).abs(),
            Activation::GeluErf | Activation::GeluTanh | Activation::GeluFast => {
                x.abs() * if x < 0.0 { (-x * x / 2.0).exp() } else { 1.0 }
            }
        };
        [-self.spread, 0.0, self.spread]
            .map(|by| passed(self.constant + by))
            .into_iter()
            .fold(0.0, f64::max)
    }
}

/// The usual sizes of channels behind a norm's weight and bias.
fn behind(norm: &Norm, mut sizes: Vec<f64>, checkpoint: &Checkpoint) -> Option<Vec<f64>> {
    if let Some(weight) = &norm.weight {
        let gamma = weight.read(checkpoint).ok()?;
        sizes.iter_mut().zip(&gamma).for_each(|(size, w)| *size *= (w + norm.offset).abs());
    }
    if let Some(bias) = &norm.bias {
        let beta = bias.read(checkpoint).ok()?;
        sizes.iter_mut().zip(&beta).for_each(|(size, b)| *size += b.abs());
    }
    Some(sizes)
}

/// The usual size of each channel of what the embeddings write, where `centred` without the mean
/// of the channels.
fn channels(checkpoint: &Checkpoint, embedding: &Embedding, centred: bool) -> Vec<f64> {
    let mut sizes = Vec::new();
    for table in &embedding.tables {
        match &table.projection {
            Some(projection) => add(&mut sizes, checkpoint, &projection.weight, true, centred),
            None => add(&mut sizes, checkpoint, &table.lens, false, centred),
        }
    }
    embedding.prefix.iter().for_each(|lens| add(&mut sizes, checkpoint, lens, false, centred));
    embedding.patch.iter().for_each(|l| add(&mut sizes, checkpoint, &l.weight, true, centred));
    sizes
}

/// Raises the sizes of channels to those of a matrix whose rows (or columns) they are.
fn add(sizes: &mut Vec<f64>, checkpoint: &Checkpoint, lens: &Lens, is_row: bool, centred: bool) {
    let (channels, samples) = match is_row {
        true => (lens.rows(), lens.cols()),
        false => (lens.cols(), lens.rows()),
    };
    let Ok(tensor) = lens.check(checkpoint) else { return };
    let (bytes, dtype) = (tensor.bytes(), tensor.dtype.expect("checked"));
    let mut seen: Vec<Vec<f64>> = vec![Vec::new(); channels];
    for sample in (0..samples).step_by((samples / SAMPLES).max(1) | 1) {
        let number = |channel| match is_row {
            true => dtype.get(bytes, lens.position(channel, sample)),
            false => dtype.get(bytes, lens.position(sample, channel)),
        };
        let mut row: Vec<f64> = (0..channels).map(number).collect();
        if centred {
            let mean = row.iter().sum::<f64>() / channels as f64;
            row.iter_mut().for_each(|value| *value -= mean);
        }
        let whole = row.iter().map(|value| value.abs()).sum::<f64>() / channels as f64;
        if whole > 0.0 && whole.is_finite() {
            seen.iter_mut().zip(&row).for_each(|(all, value)| all.push(value.abs() / whole));
        }
    }
    sizes.resize(channels.max(sizes.len()), 0.0);
    for (size, mut all) in sizes.iter_mut().zip(seen) {
        if !all.is_empty() {
            let middle = all.len() / 2;
            *size = size.max(*all.select_nth_unstable_by(middle, f64::total_cmp).1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Config, Dtype, Tensor};
    use crate::model::Dim;
    use std::collections::BTreeMap;

    /// What [`add`] makes of a matrix of two rows and four columns.
    fn sizes(values: [f64; 8], is_row: bool, centred: bool) -> Vec<f64> {
        let tensor = Tensor::from_values(Dtype::F64, vec![2, 4], values);
        let config = Config::new("test", Default::default());
        let tensors = BTreeMap::from([("w".to_string(), tensor)]);
        let checkpoint = Checkpoint::in_memory("test", config, tensors);
        let lens = Lens::matrix("w", Dim::new(2, "rows"), [Dim::new(4, "cols")]);
        let mut sizes = Vec::new();
        add(&mut sizes, &checkpoint, &lens, is_row, centred);
        sizes
    }

    #[test]
    fn a_channel_is_as_large_as_what_it_usually_holds_relative_to_the_others() {
        let rows = [1.0, -3.0, 0.0, 4.0, 10.0, -30.0, 0.0, 40.0];
        assert_eq!(sizes(rows, false, false), [0.5, 1.5, 0.0, 2.0]);
        // Without the mean, 1/2 and 5, they are 0.5, -3.5, -0.5 and 3.5.
        assert_eq!(sizes(rows, false, true), [0.25, 1.75, 0.25, 1.75]);
        // Columns: of four, 1 and 10, -3 and -30, none, 4 and 40.
        assert_eq!(sizes(rows, true, false), [2.0 / 11.0, 20.0 / 11.0]);
    }
}
