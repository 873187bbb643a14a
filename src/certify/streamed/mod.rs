//! The equations of a sublayer held in one pass over its weights, without a copy of them.
//!
//! Where every unit (neuron, head) of the expanded model is a copy of one of the source's, or
//! writes zero, it is enough to read a few rows at a time: fold each to the source's columns,
//! compare it with the row that it copies, and add the fan-outs of copies up. That is the rule, and
//! it is held here with the same bounds and the same tests as by whole matrices.
//!
//! This only ever proves. Where anything is not as it expects, it says nothing, and the equations
//! are held by whole matrices, which also find what is wrong.

mod attention;
mod fan_out;
mod fold;
mod meet;
mod mlp;
mod propose;
mod table;

use super::agreement::Agreement;
use super::bounded::{Bounded, Ratio};
use super::channels::Groups;
use super::map::Map;
use super::reader::Reader;
use super::spread::{Spread, read_equally, reads_equally};
use super::squares::{Ledger, Residual};
use super::stored::StoredRows;
use crate::error::Result;
use crate::model::{Branch, Linear, Op};
use fan_out::Written;
use fold::Fold;
use meet::{Bundle, Operand, each};
use rayon::prelude::*;
pub(super) use table::residual as table;

/// A sublayer whose equations hold.
pub(super) struct Held {
    pub ledger: Ledger,
    /// The constants that the source's and the expanded branch write, `[hidden, 1]`.
    pub constants: (Bounded, Bounded),
}

/// What the inside of a sublayer came to.
struct Inside {
    agreement: Agreement,
    groups: Groups,
    written: Written,
}

/// Holds a branch; `None` where that takes whole matrices.
///
/// # Errors
/// If a tensor cannot be read.
pub(super) fn branch(
    (map, modulo_one): (&Map, bool),
    readers: (&Reader, &Reader),
    (source, expanded): (&Branch, &Branch),
    place: &str,
) -> Result<Option<Held>> {
    if readers.0.scale.is_some() || readers.1.scale.is_some() {
        return Ok(None);
    }
    let target = (map, modulo_one);
    let inside = match (&source.op, &expanded.op) {
        (Op::Mlp(s), Op::Mlp(t)) => mlp::hold(target, readers, (s, t))?,
        (Op::Attention(s), Op::Attention(t)) => attention::hold(target, readers, (s, t))?,
        _ => None,
    };
    let Some(Inside { agreement, groups, written }) = inside.filter(|i| i.agreement.holds()) else {
        return Ok(None);
    };
    let mut ledger = Ledger::new();
    for residual in [&agreement.weight, &agreement.bias, &written.fan_out, &written.bias] {
        if residual.entries > 0 {
            ledger.hold(residual);
        }
    }
    let side = readers.1.side;
    let ops = (&source.op, &expanded.op);
    let spread = Spread::seen(
        place,
        ops,
        &groups,
        |_| true,
        |one, other| written.equal.contains(&(one, other)),
        |pairs| reads_equally(side, &expanded.op, pairs),
    )?;
    ledger.notes.spreads.extend(spread);
    ledger.notes.equal_reads.extend(read_equally(readers.1, &expanded.op)?);
    Ok(Some(Held { ledger, constants: written.constants }))
}

/// Rows of a head that one thread takes at a time.
const BLOCK: usize = 1024;

/// Holds a layer whose outputs are fixed things, row against row: its weights and its biases;
/// `None` where that takes whole matrices.
///
/// # Errors
/// If a tensor cannot be read.
pub(super) fn head(
    readers: (&Reader, &Reader),
    (source, expanded): (&Linear, &Linear),
) -> Result<Option<(Residual, Residual)>> {
    let Some(operands) = operands(readers, (source, expanded))? else { return Ok(None) };
    let new = || Agreement::new(readers.1.shared);
    let rows = source.weight.rows();
    let starts: Vec<usize> = (0..rows).step_by(BLOCK).collect();
    let held = starts
        .into_par_iter()
        .map(|first| {
            let bundle = |row| Bundle { source: vec![row], copies: vec![vec![row]] };
            let bundles: Vec<Bundle> = (first..rows.min(first + BLOCK)).map(bundle).collect();
            let (mut agreement, mut room) = (new(), Default::default());
            each(&operands.0, &operands.1, &bundles, |met| {
                met.agree(Ratio::ONE, true, &mut agreement, &mut room)
            })?;
            Some((agreement.weight, agreement.bias))
        })
        .try_reduce(|| (new().weight, new().bias), |a, b| Some((a.0.merge(b.0), a.1.merge(b.1))));
    Ok(held.filter(|(weight, bias)| weight.holds() && bias.holds()))
}

/// A layer that reads the stream, with the norm folded in; `None` where channels that hold the mean
/// are read.
fn operand<'a>(reader: &Reader<'a>, linear: &'a Linear) -> Result<Option<Operand<'a>>> {
    if reader.means().is_some() {
        return Ok(None);
    }
    let (side, cols) = (reader.side, linear.weight.cols());
    let gamma = match reader.norm {
        Some(norm) => side.gamma(norm, cols)?,
        None => Bounded::ones(cols),
    };
    let (width, targets) = reader.targets(cols);
    let target = |(col, target): (usize, &Option<(usize, f64)>)| {
        let (gamma, spread) = (gamma.value[[col, 0]], gamma.variance[[col, 0]]);
        target.map(|(of, factor)| (of, factor * gamma, factor * factor * spread))
    };
    let targets: Vec<_> = targets.iter().enumerate().map(target).collect();
    let mut fold = Fold::new(width, &targets);
    if let Some(beta) = reader.norm.and_then(|norm| norm.bias.as_ref()) {
        fold = fold.with_constants(&side.read(beta)?);
    }
    if reader.is_layer_norm() {
        fold = fold.centred();
    }
    let biases = linear.bias.as_ref().map(|bias| side.read(bias)).transpose()?;
    Ok(Some(Operand { rows: StoredRows::new(side, &linear.weight)?, fold, biases }))
}

/// Both operands of a layer.
fn operands<'a>(
    readers: (&Reader<'a>, &Reader<'a>),
    (source, expanded): (&'a Linear, &'a Linear),
) -> Result<Option<(Operand<'a>, Operand<'a>)>> {
    Ok(operand(readers.0, source)?.zip(operand(readers.1, expanded)?))
}

/// The pairs of first copies with the others, in the order of the source's units.
fn copies(units: usize, of: &[Option<usize>]) -> Vec<(usize, usize)> {
    let mut firsts = vec![None; units];
    let mut pairs = Vec::new();
    for (unit, of) in of.iter().enumerate() {
        let Some(of) = of else { continue };
        match firsts[*of] {
            None => firsts[*of] = Some(unit),
            Some(first) => pairs.push((first, unit)),
        }
    }
    pairs
}
