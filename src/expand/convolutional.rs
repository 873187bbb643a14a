//! Lossless expansion of residual convolutional networks (LEMON, appendix on CNNs).
//!
//! Channels are copied in a circle. A convolution's weights for the copies of an input channel sum
//! to the source's, tap by tap; its outputs and the BatchNorm behind them are copied as they are.
//! BatchNorm acts on each channel alone, and so do ReLU, maxima and means over the image, so a copy
//! stays a copy at any width, and ε stays. A new block's last BatchNorm has γ = β = 0: the block
//! adds zero to its input, which is not negative, so that the ReLU behind it changes nothing.

use super::Options;
use super::linear::{self, Duty};
use super::memory;
use super::random::{Random, root_mean_square};
use super::rules::Map;
use crate::checkpoint::{Checkpoint, Config, Dtype, Tensor};
use crate::error::{Error, Result};
use crate::model::convolutional::{
    Block, ConvNet, ConvSizes, Convolution, StageSizes, configure_convnet, convnet_of,
};
use crate::model::{Catalog, Lens};
use ndarray::{Array2, s};
use std::collections::BTreeMap;

/// The sizes asked for, all counts; `None` keeps the source's. The channels inside a bottleneck
/// follow from those outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConvTarget {
    /// Channels of the stem (`embedding_size`).
    pub stem: Option<usize>,
    /// Channels of each stage (`hidden_sizes`).
    pub stages: Option<Vec<usize>>,
    /// Blocks of each stage (`depths`); new ones come last.
    pub blocks: Option<Vec<usize>>,
}

/// Expands `source`, which `net` describes, in memory. Of `options`, `free`, `seed` and `dtype`
/// count.
///
/// Counters of batches (`num_batches_tracked`), which no output depends on, are copied, those of a
/// new block from the block that it is a copy of.
///
/// # Errors
/// - refused: a size is below the source's, a shortcut would have to become a projection, or the
///   expansion does not fit into memory
/// - unsupported: the checkpoint holds a tensor that no rule expands
/// - bad input: a tensor is damaged, or holds NaN or infinity
pub fn expand_convnet(
    source: &Checkpoint,
    net: &ConvNet,
    target: &ConvTarget,
    options: &Options,
) -> Result<Checkpoint> {
    expanded(source, net, target, options).map_err(|e| e.at(source.path()))
}

fn expanded(
    source: &Checkpoint,
    net: &ConvNet,
    target: &ConvTarget,
    options: &Options,
) -> Result<Checkpoint> {
    if let Some(name) = net.strangers(source).first() {
        let problem = "no part of the network reads it, so that no rule expands it";
        return Err(Error::unsupported(problem).tensor(name));
    }
    let name = format!("expansion of {}", source.path().display());
    let mut config = Config::new(&name, source.config().json().clone());
    configure_convnet(&mut config, &wanted(&net.sizes, target)?);
    let large = convnet_of(&config, &Catalog::of(source))?;
    refuse_smaller(&net.sizes, &large.sizes)?;
    let writer = Writer { source, options };
    let dtype = options.dtype.unwrap_or(Dtype::F64);
    let count = |lens: &&Lens| (lens.rows() as u64).saturating_mul(lens.cols() as u64);
    let counts = large.lenses();
    memory::refuse(
        memory::needed(counts.iter().map(|lens| (count(lens), dtype))),
        memory::available(),
    )?;
    let mut tensors = BTreeMap::new();
    writer.network(net, &large, &mut tensors)?;
    Ok(Checkpoint::in_memory(name, config, tensors))
}

/// The sizes asked for, the source's where nothing is.
fn wanted(sizes: &ConvSizes, target: &ConvTarget) -> Result<ConvSizes> {
    let list = |asked: &Option<Vec<usize>>, own: fn(&StageSizes) -> usize, field: &str| {
        let list = asked.clone().unwrap_or_else(|| sizes.stages.iter().map(own).collect());
        match list.len() == sizes.stages.len() {
            true => Ok(list),
            false => Err(Error::refused(format!("{} sizes are given", list.len()))
                .field(field)
                .help(format!("give one for each of the {} stages", sizes.stages.len()))),
        }
    };
    let outer = list(&target.stages, |stage| stage.outer, "hidden_sizes")?;
    let blocks = list(&target.blocks, |stage| stage.blocks, "depths")?;
    let stages = sizes.stages.iter().zip(outer.into_iter().zip(blocks));
    Ok(ConvSizes {
        stem: target.stem.unwrap_or(sizes.stem),
        stages: stages
            .map(|(stage, (outer, blocks))| StageSizes { outer, blocks, ..*stage })
            .collect(),
    })
}

fn refuse_smaller(small: &ConvSizes, large: &ConvSizes) -> Result<()> {
    let mut pairs = vec![("embedding_size", small.stem, large.stem)];
    for (s, t) in small.stages.iter().zip(&large.stages) {
        pairs.push(("hidden_sizes", s.outer, t.outer));
        pairs.push(("hidden_sizes", s.inner, t.inner));
        pairs.push(("depths", s.blocks, t.blocks));
    }
    match pairs.into_iter().find(|(_, least, got)| got < least) {
        None => Ok(()),
        Some((field, least, got)) => {
            Err(Error::refused(format!("{got} is smaller than the source's {least}"))
                .field(field)
                .help("an expansion grows, or keeps, every size"))
        }
    }
}

/// Makes the tensors of the expanded network.
struct Writer<'a> {
    source: &'a Checkpoint,
    options: &'a Options,
}

type Tensors = BTreeMap<String, Tensor>;

/// How the channels that a convolution reads and writes are copied.
type Maps<'a> = (&'a Map, &'a Map);

impl Writer<'_> {
    fn network(&self, net: &ConvNet, large: &ConvNet, out: &mut Tensors) -> Result<()> {
        let image = Map::identity(net.colours);
        let mut read = Map::circular(net.sizes.stem, large.sizes.stem);
        self.convolution(&net.stem, &large.stem, (&image, &read), out)?;
        let sizes = net.sizes.stages.iter().zip(&large.sizes.stages);
        for ((s, t), (small, wide)) in net.stages.iter().zip(&large.stages).zip(sizes) {
            let inner = Map::circular(small.inner, wide.inner);
            let outer = Map::circular(small.outer, wide.outer);
            for (index, block) in t.iter().enumerate() {
                let read = if index == 0 { &read } else { &outer };
                let maps = (read, &inner, &outer);
                match s.get(index) {
                    Some(old) => self.block(old, block, maps, out)?,
                    None => self.new_block(&s[s.len() - 1], block, maps, out)?,
                }
            }
            read = outer;
        }
        let weight = net.head.weight.read(self.source)?;
        let classes = Map::identity(weight.nrows());
        let free = self.options.free;
        let mut random = Random::new(self.options.seed, large.head.weight.name(), 0);
        let weight = linear::expand(&weight, (&classes, &read), Duty::Same, free, &mut random)?;
        self.put((&net.head.weight, &large.head.weight), &weight, out)?;
        if let (Some(small), Some(wide)) = (&net.head.bias, &large.head.bias) {
            self.put((small, wide), &small.read(self.source)?, out)?;
        }
        Ok(())
    }

    fn block(
        &self,
        small: &Block,
        wide: &Block,
        (read, inner, outer): (&Map, &Map, &Map),
        out: &mut Tensors,
    ) -> Result<()> {
        let last = wide.convolutions.len() - 1;
        for (k, pair) in small.convolutions.iter().zip(&wide.convolutions).enumerate() {
            let from = if k == 0 { read } else { inner };
            let to = if k == last { outer } else { inner };
            self.convolution(pair.0, pair.1, (from, to), out)?;
        }
        match (&small.shortcut, &wide.shortcut) {
            (Some(small), Some(wide)) => self.convolution(small, wide, (read, outer), out),
            (None, None) => Ok(()),
            _ => Err(Error::refused("a block's input would have to be projected, or no longer")
                .field("embedding_size")
                .help("keep embedding_size equal to the first of hidden_sizes")),
        }
    }

    /// A block that adds zero: a copy of `model`, a block of its stage, but for its last norm. What
    /// reads other channels there is random.
    fn new_block(
        &self,
        model: &Block,
        wide: &Block,
        (read, inner, outer): (&Map, &Map, &Map),
        out: &mut Tensors,
    ) -> Result<()> {
        let last = wide.convolutions.len() - 1;
        for (k, (a, b)) in model.convolutions.iter().zip(&wide.convolutions).enumerate() {
            let from = if k == 0 { read } else { inner };
            let to = if k == last { outer } else { inner };
            if a.inputs() == from.sources() {
                self.convolution(a, b, (from, to), out)?;
            } else {
                self.norm(a, b, to, out)?;
                let size = root_mean_square(&a.weight.read(self.source)?);
                let mut random = Random::new(self.options.seed, b.weight.name(), 0);
                let numbers = random.vector(b.weight.rows() * b.weight.cols(), size);
                let shape = (b.weight.rows(), b.weight.cols());
                let numbers = numbers.into_shape_with_order(shape).expect("as many as it has");
                self.put((&a.weight, &b.weight), &numbers, out)?;
            }
        }
        let (a, b) = (&model.convolutions[last].norm, &wide.convolutions[last].norm);
        for pair in [(&a.weight, &b.weight), (&a.bias, &b.bias)] {
            self.put(pair, &memory::zeros(pair.1.rows(), 1)?, out)?;
        }
        Ok(())
    }

    /// Weights split over the copies of what is read, tap by tap, and copied; the norm copied.
    fn convolution(
        &self,
        small: &Convolution,
        wide: &Convolution,
        (read, written): Maps,
        out: &mut Tensors,
    ) -> Result<()> {
        let weight = small.weight.read(self.source)?;
        let taps = small.taps();
        let mut expanded = memory::zeros(wide.weight.rows(), wide.weight.cols())?;
        for tap in 0..taps {
            let one = weight.slice(s![.., tap..;taps]).to_owned();
            let mut random = Random::new(self.options.seed, wide.weight.name(), tap);
            let free = self.options.free;
            let one = linear::expand(&one, (written, read), Duty::Same, free, &mut random)?;
            expanded.slice_mut(s![.., tap..;taps]).assign(&one);
        }
        self.put((&small.weight, &wide.weight), &expanded, out)?;
        self.norm(small, wide, written, out)
    }

    fn norm(
        &self,
        small: &Convolution,
        wide: &Convolution,
        written: &Map,
        out: &mut Tensors,
    ) -> Result<()> {
        let pairs = small.lenses().into_iter().zip(wide.lenses()).skip(1);
        for pair in pairs {
            self.put(pair, &written.expand_rows(&pair.0.read(self.source)?), out)?;
        }
        let (counter, copy) = (small.norm.counter(), wide.norm.counter());
        if let Some(counter) = self.source.tensors().get(&counter) {
            out.insert(copy, counter.clone());
        }
        Ok(())
    }

    fn put(
        &self,
        (small, wide): (&Lens, &Lens),
        values: &Array2<f64>,
        out: &mut Tensors,
    ) -> Result<()> {
        let stored = small.check(self.source)?.dtype;
        let dtype = self.options.dtype.or(stored).unwrap_or(Dtype::F32);
        let shape = wide.stored().iter().map(|dim| dim.size).collect();
        let tensor = Tensor::from_values(dtype, shape, values.iter().copied());
        out.insert(wide.name().to_string(), tensor);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_sizes_as_stages_are_asked_for() {
        let stage = StageSizes { outer: 8, inner: 2, blocks: 1 };
        let sizes = ConvSizes { stem: 4, stages: vec![stage; 2] };
        let target = ConvTarget { stages: Some(vec![9]), ..ConvTarget::default() };
        let message = wanted(&sizes, &target).unwrap_err().to_string();
        assert!(message.contains("one for each of the 2 stages"), "{message}");
        assert_eq!(wanted(&sizes, &ConvTarget::default()).unwrap(), sizes);
    }
}
