//! Random weights for every tensor of a network.

use super::ConvCase;
use crate::checkpoint::Tensor;
use crate::model::Lens;
use crate::model::convolutional::{Block, ConvNet, Convolution};
use crate::testing::WeightStyle;
use crate::testing::random::{Draw, generator};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Of channels, this share is dead: γ = β = 0, as pruning leaves them.
const DEAD: f64 = 0.04;

type Tensors = BTreeMap<String, Tensor>;

/// All tensors of `net`, drawn in the order of the computation.
pub(super) fn tensors(case: &ConvCase, net: &ConvNet) -> Tensors {
    let mut writer = Writer { case, rng: generator(case.seed), tensors: Tensors::new() };
    // Training often begins with blocks that add nothing.
    let silent = case.weights == WeightStyle::DefaultInit && writer.rng.chance(0.5);
    writer.convolution(&net.stem, false);
    for block in net.stages.iter().flatten() {
        writer.block(block, silent);
    }
    writer.matrix(&net.head.weight);
    if let Some(bias) = &net.head.bias {
        writer.vector(bias, |rng| 0.3 * rng.normal());
    }
    if case.counted {
        // The one BatchNorm in front of everything stands for all of them.
        let name = net.stem.norm.mean.name().replace("running_mean", "num_batches_tracked");
        writer.tensors.insert(name, Tensor::from_values(case.dtype, vec![1], vec![7.0]));
    }
    writer.tensors
}

struct Writer<'a> {
    case: &'a ConvCase,
    rng: ChaCha8Rng,
    tensors: Tensors,
}

impl Writer<'_> {
    fn block(&mut self, block: &Block, silent: bool) {
        let last = block.convolutions.len() - 1;
        for (index, convolution) in block.convolutions.iter().enumerate() {
            self.convolution(convolution, silent && index == last);
        }
        block.shortcut.iter().for_each(|shortcut| self.convolution(shortcut, false));
    }

    fn convolution(&mut self, convolution: &Convolution, silent: bool) {
        self.matrix(&convolution.weight);
        let norm = &convolution.norm;
        let style = self.case.weights;
        if style == WeightStyle::DefaultInit {
            self.vector(&norm.weight, |_| if silent { 0.0 } else { 1.0 });
            self.vector(&norm.bias, |_| 0.0);
            self.vector(&norm.mean, |_| 0.0);
            return self.vector(&norm.variance, |_| 1.0);
        }
        let channels = convolution.outputs();
        let alive: Vec<f64> =
            (0..channels).map(|_| if self.rng.chance(DEAD) { 0.0 } else { 1.0 }).collect();
        let (mut gamma, mut beta) = (alive.iter(), alive.iter());
        self.vector(&norm.weight, |rng| gamma.next().unwrap_or(&1.0) * (0.8 + 0.5 * rng.normal()));
        self.vector(&norm.bias, |rng| beta.next().unwrap_or(&1.0) * 0.3 * rng.normal());
        let small = style == WeightStyle::SmallEmbeddings;
        let spread = if small { 1e-5 } else { 1.0 };
        self.vector(&norm.mean, |rng| 0.3 * spread * rng.normal());
        self.vector(&norm.variance, |rng| spread * libm::exp(0.7 * rng.normal()));
    }

    /// A matrix that keeps the scale of what it reads, but for the style.
    fn matrix(&mut self, lens: &Lens) {
        let scale = match self.case.weights {
            WeightStyle::Large => 4.0,
            WeightStyle::Tiny => 0.05,
            WeightStyle::SmallEmbeddings => 0.01,
            WeightStyle::DefaultInit => 0.3,
            WeightStyle::Zeros | WeightStyle::Repeated | WeightStyle::Faint => 1.0,
            WeightStyle::Random | WeightStyle::Scales => 1.0,
        };
        let size = scale / (lens.cols() as f64).sqrt();
        self.vector(lens, |rng| size * rng.normal());
    }

    fn vector(&mut self, lens: &Lens, mut draw: impl FnMut(&mut ChaCha8Rng) -> f64) {
        let values: Vec<f64> =
            (0..lens.rows() * lens.cols()).map(|_| draw(&mut self.rng)).collect();
        let shape = lens.stored().iter().map(|dim| dim.size).collect();
        let tensor = Tensor::from_values(self.case.dtype, shape, values);
        self.tensors.insert(lens.name().to_string(), tensor);
    }
}
