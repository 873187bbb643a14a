//! Residual convolutional networks (ResNet): no stream of tokens but maps of channels, so they have
//! a description of their own.
//!
//! The configuration is that of Hugging Face's `ResNetConfig` (`embedding_size`, `hidden_sizes`,
//! `depths`, `layer_type` …), whatever the names of the tensors: Hugging Face's or torchvision's
//! (`layer1.0.conv1.weight`), which also go with timm's plain ResNets. torchvision writes no
//! configuration: `{"architecture": "resnet50", "num_classes": 1000}` is enough, and
//! `width_per_group` is its argument of this name.

mod read;
mod settings;

pub use read::{convnet_of, describe_convnet};
pub use settings::{configure_convnet, is_convolutional};

use super::{Lens, Linear};
use crate::checkpoint::Checkpoint;
use std::collections::BTreeSet;

/// A ResNet: stem, stages of residual blocks, the mean over the image, a linear head.
#[derive(Clone, Debug)]
pub struct ConvNet {
    /// Colour channels of an image `[colours, height, width]` of any size.
    pub colours: usize,
    /// The sizes that an expansion may change.
    pub sizes: ConvSizes,
    /// The first convolution; ReLU and a 3×3 maximum with stride 2 follow it.
    pub stem: Convolution,
    /// The stages, each a list of blocks.
    pub stages: Vec<Vec<Block>>,
    /// From the channels' means over the image to logits, `[classes, channels]`.
    pub head: Linear,
    /// Stored tensors that are no parameters (counters of batches): by name.
    pub buffers: Vec<String>,
}

/// The sizes of a ResNet that an expansion may change, all counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConvSizes {
    /// Channels of the stem.
    pub stem: usize,
    /// One entry per stage.
    pub stages: Vec<StageSizes>,
}

/// The sizes of one stage, all counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageSizes {
    /// Channels that its blocks read (but for the first) and write.
    pub outer: usize,
    /// Channels inside a block.
    pub inner: usize,
    /// Blocks.
    pub blocks: usize,
}

/// A convolution without bias and the BatchNorm behind it.
#[derive(Clone, Debug)]
pub struct Convolution {
    /// `[out, in·kernel·kernel]`: input channel, then row, then column of the kernel.
    pub weight: Lens,
    /// Pixels per side of the kernel. Zeros pad the image by `kernel / 2` on each side.
    pub kernel: usize,
    /// Pixels from one place of the kernel to the next.
    pub stride: usize,
    /// The norm of its output.
    pub norm: BatchNorm,
}

/// `γ·(x − mean)/sqrt(variance + ε) + β` channel by channel, with the stored running statistics.
#[derive(Clone, Debug)]
pub struct BatchNorm {
    /// γ, `[channels, 1]`.
    pub weight: Lens,
    /// β, `[channels, 1]`.
    pub bias: Lens,
    /// `[channels, 1]`.
    pub mean: Lens,
    /// `[channels, 1]`.
    pub variance: Lens,
    /// Added to the variance.
    pub eps: f64,
}

/// `relu(shortcut(x) + f(x))`, where f is convolutions with ReLU between them.
#[derive(Clone, Debug)]
pub struct Block {
    /// Three in a bottleneck, two in a basic block.
    pub convolutions: Vec<Convolution>,
    /// The projection of `x`; `None` where it is added as it is.
    pub shortcut: Option<Convolution>,
}

impl ConvNet {
    /// Every convolution, in the order of the computation; a block's shortcut is its last.
    pub fn convolutions(&self) -> impl Iterator<Item = &Convolution> {
        std::iter::once(&self.stem).chain(
            self.stages.iter().flatten().flat_map(|b| b.convolutions.iter().chain(&b.shortcut)),
        )
    }

    /// Every lens, in the order of the computation.
    pub fn lenses(&self) -> Vec<&Lens> {
        self.convolutions().flat_map(Convolution::lenses).chain(self.head.lenses()).collect()
    }

    /// Stored tensors that the network does not read and that are not known buffers.
    pub fn strangers<'a>(&self, checkpoint: &'a Checkpoint) -> Vec<&'a str> {
        let mut known: BTreeSet<&str> = self.lenses().iter().map(|lens| lens.name()).collect();
        known.extend(self.buffers.iter().map(String::as_str));
        checkpoint.tensors().keys().map(String::as_str).filter(|n| !known.contains(n)).collect()
    }
}

impl Convolution {
    /// Weight, γ, β, mean, variance.
    pub fn lenses(&self) -> [&Lens; 5] {
        let BatchNorm { weight, bias, mean, variance, .. } = &self.norm;
        [&self.weight, weight, bias, mean, variance]
    }

    /// Numbers in the kernel for one input channel.
    pub fn taps(&self) -> usize {
        self.kernel * self.kernel
    }

    /// Input channels.
    pub fn inputs(&self) -> usize {
        self.weight.cols() / self.taps()
    }

    /// Output channels.
    pub fn outputs(&self) -> usize {
        self.weight.rows()
    }
}

impl BatchNorm {
    /// The name of its counter of batches, which may be stored and is not read: torch's
    /// `num_batches_tracked`.
    pub fn counter(&self) -> String {
        let name = self.mean.name();
        format!("{}num_batches_tracked", name.strip_suffix("running_mean").unwrap_or(name))
    }
}

impl Block {
    /// Pixels of the image that it reads for one that it writes, per side.
    pub fn stride(&self) -> usize {
        self.convolutions.iter().map(|convolution| convolution.stride).product()
    }
}
