//! Deliberate changes of an expansion that is right.

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::Lens;
use crate::model::convolutional::{Block, ConvNet, Convolution};
use crate::testing::mutants::edit::{Editor, visible};
use crate::testing::random::{Draw, generator};
use crate::testing::{Intent, Mutated};
use ndarray::{Array2, Axis, s};
use rand_chacha::ChaCha8Rng;

/// A network and an expansion of it that is right, whose channels are copied in a circle and whose
/// new blocks come last in their stages.
#[derive(Clone, Copy)]
pub struct ConvPair<'a> {
    /// Describes the source.
    pub source_net: &'a ConvNet,
    /// The expansion's weights.
    pub expanded: &'a Checkpoint,
    /// Describes `expanded`.
    pub expanded_net: &'a ConvNet,
}

type Apply = fn(&ConvPair, &mut ChaCha8Rng) -> Result<Option<Mutated>>;

/// A deliberate change of an expansion.
#[derive(Debug)]
pub struct ConvMutant {
    /// The name by which reports speak of it.
    pub name: &'static str,
    /// What it is meant to be.
    pub intent: Intent,
    apply: Apply,
}

const fn mistake(name: &'static str, apply: Apply) -> ConvMutant {
    ConvMutant { name, intent: Intent::Mistake, apply }
}

const fn equivalent(name: &'static str, apply: Apply) -> ConvMutant {
    ConvMutant { name, intent: Intent::Equivalent, apply }
}

/// The catalogue, mistakes first.
pub const CONV_MUTANTS: &[ConvMutant] = &[
    mistake("one number off", number_off),
    mistake("row negated", row_negated),
    mistake("fan-out sum off", fan_out_sum_off),
    mistake("fan-out not split", fan_out_not_split),
    mistake("head not split", head_not_split),
    mistake("input channels swapped", inputs_swapped),
    mistake("kernel transposed", kernel_transposed),
    mistake("matrix transposed", matrix_transposed),
    mistake("norm not expanded", norm_not_expanded),
    mistake("mean and variance swapped", statistics_swapped),
    mistake("new block not silent", new_block_speaks),
    mistake("channels permuted without their reader", half_permuted),
    mistake("stride in another convolution", stride_moved),
    equivalent("channels of a block permuted", inner_permuted),
    equivalent("channels of a stage permuted", stage_permuted),
    equivalent("weights doubled under their norm", weights_doubled),
    equivalent("mean moved into the bias", mean_moved),
    equivalent("free numbers of a new block", new_block_free),
];

impl ConvMutant {
    /// Applies the change, where it can be applied and changes any byte. The same seed makes the
    /// same change.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn apply(&self, pair: &ConvPair, seed: u64) -> Result<Option<Mutated>> {
        (self.apply)(pair, &mut generator(seed))
    }
}

impl<'a> ConvPair<'a> {
    fn editor(&self) -> Editor<'a> {
        Editor::of_tensors(self.expanded)
    }

    /// Blocks that compute something in the expansion, with those that they expand.
    fn blocks(&self) -> Vec<(&'a Block, &'a Block)> {
        let stages = self.source_net.stages.iter().zip(&self.expanded_net.stages);
        let pairs = stages.flat_map(|(small, wide)| small.iter().zip(wide));
        pairs.filter(|(_, wide)| wide.shortcut.is_some() || !self.is_silent(wide)).collect()
    }

    /// Convolutions with those that they expand, without blocks that add nothing.
    fn convolutions(&self) -> Vec<(&'a Convolution, &'a Convolution)> {
        let mut found = vec![(&self.source_net.stem, &self.expanded_net.stem)];
        for (small, wide) in self.blocks() {
            if !self.is_silent(wide) {
                found.extend(small.convolutions.iter().zip(&wide.convolutions));
            }
            found.extend(small.shortcut.iter().zip(&wide.shortcut));
        }
        found
    }

    fn is_silent(&self, block: &Block) -> bool {
        let zero = |lens: &Lens| {
            lens.read(self.expanded).is_ok_and(|values| values.iter().all(|v| *v == 0.0))
        };
        let last = &block.convolutions[block.convolutions.len() - 1].norm;
        zero(&last.weight) && zero(&last.bias)
    }

    /// Blocks that the source lacks.
    fn new_blocks(&self) -> Vec<&'a Block> {
        let stages = self.source_net.stages.iter().zip(&self.expanded_net.stages);
        stages.flat_map(|(small, wide)| &wide[small.len()..]).collect()
    }

    /// One of the convolutions on which `change` changes something, blamed on its weight.
    fn on_convolution(
        &self,
        rng: &mut ChaCha8Rng,
        mut change: impl FnMut(&Convolution, &Convolution, &mut Array2<f64>, &mut ChaCha8Rng),
    ) -> Result<Option<Mutated>> {
        let all = self.convolutions();
        for index in rng.permutation(all.len()) {
            let (small, wide) = all[index];
            let mut editor = self.editor();
            editor.edit(&wide.weight, |weight| change(small, wide, weight, rng))?;
            if let Some(mutated) = editor.blame(wide.weight.name()) {
                return Ok(Some(mutated));
            }
        }
        Ok(None)
    }
}

fn number_off(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let mut lenses: Vec<&Lens> =
        pair.convolutions().into_iter().flat_map(|(_, wide)| wide.lenses()).collect();
    lenses.extend(pair.expanded_net.head.lenses());
    let factor = 1.0 + visible(pair.expanded, 1e-2);
    let lens = rng.pick(&lenses);
    let (row, column) = (rng.below(lens.rows()), rng.below(lens.cols()));
    let mut editor = pair.editor();
    editor.edit(lens, |matrix| matrix[[row, column]] *= factor)?;
    Ok(editor.blame(lens.name()))
}

fn row_negated(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    pair.on_convolution(rng, |_, _, weight, rng| {
        let row = rng.below(weight.nrows());
        weight.row_mut(row).iter_mut().for_each(|w| *w = -*w);
    })
}

fn fan_out_sum_off(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let factor = 1.0 + visible(pair.expanded, 1e-4);
    pair.on_convolution(rng, |_, wide, weight, rng| {
        let first = rng.below(wide.inputs()) * wide.taps();
        let mut columns = weight.slice_mut(s![.., first..first + wide.taps()]);
        columns.mapv_inplace(|w| w * factor);
    })
}

/// Every copy of a column has the sum of all of them. Copies lie in a circle of `period` columns.
fn give_all(weight: &mut Array2<f64>, period: usize) {
    let mut sums = Array2::<f64>::zeros((weight.nrows(), period));
    for (j, column) in weight.columns().into_iter().enumerate() {
        let mut sum = sums.column_mut(j % period);
        sum += &column;
    }
    for (j, mut column) in weight.columns_mut().into_iter().enumerate() {
        column.assign(&sums.column(j % period));
    }
}

fn fan_out_not_split(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    pair.on_convolution(rng, |small, wide, weight, _| {
        if wide.inputs() > small.inputs() {
            give_all(weight, small.weight.cols());
        }
    })
}

fn head_not_split(pair: &ConvPair, _: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let (small, wide) = (&pair.source_net.head.weight, &pair.expanded_net.head.weight);
    if wide.cols() == small.cols() {
        return Ok(None);
    }
    let mut editor = pair.editor();
    editor.edit(wide, |weight| give_all(weight, small.cols()))?;
    Ok(editor.blame(wide.name()))
}

fn inputs_swapped(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    pair.on_convolution(rng, |_, wide, weight, rng| {
        let (one, other) = (rng.below(wide.inputs()), rng.below(wide.inputs()));
        for tap in 0..wide.taps() {
            for mut row in weight.rows_mut() {
                row.swap(one * wide.taps() + tap, other * wide.taps() + tap);
            }
        }
    })
}

fn kernel_transposed(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    pair.on_convolution(rng, |_, wide, weight, _| {
        let side = wide.kernel;
        let turned = |tap: usize| tap % side * side + tap / side;
        let columns = (0..weight.ncols())
            .map(|column| column / wide.taps() * wide.taps() + turned(column % wide.taps()));
        *weight = weight.select(Axis(1), &columns.collect::<Vec<_>>());
    })
}

fn matrix_transposed(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    pair.on_convolution(rng, |_, _, weight, _| {
        if weight.is_square() {
            *weight = weight.t().to_owned();
        }
    })
}

/// One of γ, β, mean and variance is on new channels what it is before training.
fn norm_not_expanded(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let mut all = pair.convolutions();
    all.retain(|(small, wide)| wide.outputs() > small.outputs());
    for index in rng.permutation(all.len()) {
        let (small, wide) = all[index];
        let norm = &wide.norm;
        let vectors = [&norm.weight, &norm.bias, &norm.mean, &norm.variance];
        let which = rng.below(4);
        let untrained = [1.0, 0.0, 0.0, 1.0][which];
        let mut editor = pair.editor();
        editor.edit(vectors[which], |values| {
            values.slice_mut(s![small.outputs().., ..]).fill(untrained);
        })?;
        if let Some(mutated) = editor.blame(vectors[which].name()) {
            return Ok(Some(mutated));
        }
    }
    Ok(None)
}

fn statistics_swapped(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let (_, wide) = rng.pick(&pair.convolutions());
    let mut editor = pair.editor();
    let (mean, variance) = (editor.read(&wide.norm.mean)?, editor.read(&wide.norm.variance)?);
    editor.write(&wide.norm.mean, &variance)?;
    // A variance is not negative.
    editor.write(&wide.norm.variance, &mean.mapv(f64::abs))?;
    Ok(editor.blame(wide.norm.mean.name()))
}

fn new_block_speaks(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let blocks = pair.new_blocks();
    if blocks.is_empty() {
        return Ok(None);
    }
    let block = rng.pick(&blocks);
    let norm = &block.convolutions[block.convolutions.len() - 1].norm;
    let lens = rng.pick(&[&norm.weight, &norm.bias]);
    let channel = rng.below(lens.rows());
    let mut editor = pair.editor();
    editor.edit(lens, |values| values[[channel, 0]] = 0.5)?;
    Ok(editor.blame(lens.name()))
}

/// Puts the channels that a convolution writes in another order, norm included.
fn reorder_outputs(editor: &mut Editor, convolution: &Convolution, order: &[usize]) -> Result<()> {
    let mut lenses = convolution.lenses().into_iter();
    lenses.try_for_each(|lens| editor.edit(lens, |rows| *rows = rows.select(Axis(0), order)))
}

/// Puts the channels that a matrix reads in another order, `taps` columns each.
fn reorder_inputs(editor: &mut Editor, lens: &Lens, taps: usize, order: &[usize]) -> Result<()> {
    let columns: Vec<usize> =
        order.iter().flat_map(|channel| channel * taps..(channel + 1) * taps).collect();
    editor.edit(lens, |matrix| *matrix = matrix.select(Axis(1), &columns))
}

/// Permutes what a convolution inside a block writes, and what the next one reads if asked.
fn permuted(pair: &ConvPair, rng: &mut ChaCha8Rng, reader: bool) -> Result<Option<Mutated>> {
    let mut blocks = pair.blocks();
    blocks.retain(|(_, wide)| !pair.is_silent(wide));
    for index in rng.permutation(blocks.len()) {
        let convolutions = &blocks[index].1.convolutions;
        let which = rng.below(convolutions.len() - 1);
        let (writes, reads) = (&convolutions[which], &convolutions[which + 1]);
        let order = rng.permutation(writes.outputs());
        let mut editor = pair.editor();
        reorder_outputs(&mut editor, writes, &order)?;
        if reader {
            reorder_inputs(&mut editor, &reads.weight, reads.taps(), &order)?;
        }
        if let Some(mutated) = editor.blame(reads.weight.name()) {
            return Ok(Some(mutated));
        }
    }
    Ok(None)
}

fn half_permuted(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    permuted(pair, rng, false)
}

fn inner_permuted(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    permuted(pair, rng, true)
}

fn stage_permuted(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let stages = &pair.expanded_net.stages;
    let stage = rng.below(stages.len());
    // Where a stage adds its input as it is, that would have to follow.
    if stages[stage][0].shortcut.is_none() {
        return Ok(None);
    }
    let order = rng.permutation(pair.expanded_net.sizes.stages[stage].outer);
    let mut editor = pair.editor();
    for (index, block) in stages[stage].iter().enumerate() {
        let last = &block.convolutions[block.convolutions.len() - 1];
        reorder_outputs(&mut editor, last, &order)?;
        if let Some(shortcut) = &block.shortcut {
            reorder_outputs(&mut editor, shortcut, &order)?;
        }
        if index > 0 {
            let first = &block.convolutions[0];
            reorder_inputs(&mut editor, &first.weight, first.taps(), &order)?;
        }
    }
    match stages.get(stage + 1) {
        Some(next) => {
            for reader in next[0].convolutions.iter().take(1).chain(&next[0].shortcut) {
                reorder_inputs(&mut editor, &reader.weight, reader.taps(), &order)?;
            }
        }
        None => reorder_inputs(&mut editor, &pair.expanded_net.head.weight, 1, &order)?,
    }
    let first = &stages[stage][0].convolutions[0].weight;
    Ok(editor.blame(first.name()))
}

fn stride_moved(pair: &ConvPair, _: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let field = "downsample_in_bottleneck";
    let blocks = pair.expanded_net.stages.iter().flatten();
    let strided = |block: &Block| block.convolutions.len() == 3 && block.stride() > 1;
    if !blocks.into_iter().any(strided) {
        return Ok(None);
    }
    let mut editor = pair.editor();
    let now = pair.expanded.config().flag_or(field, false)?;
    editor.config().set(field, !now);
    Ok(editor.blame(field))
}

/// The norm takes away a factor of one channel, ε included.
fn weights_doubled(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let (_, wide) = rng.pick(&pair.convolutions());
    let channel = rng.below(wide.outputs());
    let eps = wide.norm.eps;
    let mut editor = pair.editor();
    editor.edit(&wide.weight, |rows| rows.row_mut(channel).mapv_inplace(|w| 2.0 * w))?;
    editor.edit(&wide.norm.mean, |mean| mean[[channel, 0]] *= 2.0)?;
    editor.edit(&wide.norm.variance, |variance| {
        variance[[channel, 0]] = 4.0 * (variance[[channel, 0]] + eps) - eps;
    })?;
    Ok(editor.blame(wide.weight.name()))
}

fn mean_moved(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let (_, wide) = rng.pick(&pair.convolutions());
    let norm = &wide.norm;
    let mut editor = pair.editor();
    let (gamma, mean) = (editor.read(&norm.weight)?, editor.read(&norm.mean)?);
    let spread = editor.read(&norm.variance)?.mapv(|variance| (variance + norm.eps).sqrt());
    editor.edit(&norm.bias, |bias| *bias -= &(&gamma * &mean / spread))?;
    editor.edit(&norm.mean, |mean| mean.fill(0.0))?;
    Ok(editor.blame(norm.mean.name()))
}

fn new_block_free(pair: &ConvPair, rng: &mut ChaCha8Rng) -> Result<Option<Mutated>> {
    let blocks = pair.new_blocks();
    if blocks.is_empty() {
        return Ok(None);
    }
    let block = rng.pick(&blocks);
    let weight = &block.convolutions[rng.below(block.convolutions.len())].weight;
    let mut editor = pair.editor();
    editor.edit(weight, |weight| weight.iter_mut().for_each(|w| *w = rng.normal()))?;
    Ok(editor.blame(weight.name()))
}
