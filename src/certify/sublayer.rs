//! The equations of one sublayer pair, or of a sublayer that stands alone.

use super::blame::{Accused, Verdict, alone};
use super::certificate::{Failure, Reach};
use super::channels::equations;
use super::map::Map;
use super::ops::{incomparable, writes};
use super::reader::{Memory, Reader, reader_alone, readers};
use super::side::{Side, unit};
use super::squares::{Ledger, Place, Residual, failure};
use super::stream::eta_squared;
use super::suspect::Case;
use crate::checkpoint::Dtype;
use crate::error::Result;
use crate::model::{Branch, Lens, Linear, Norm, Op, Sublayer};

/// What all sublayers have in common.
#[derive(Clone, Copy)]
pub(super) struct Network<'a> {
    pub source: &'a Side<'a>,
    pub expanded: &'a Side<'a>,
    /// Whether everything that reads the stream is a LayerNorm.
    pub layer_norm: bool,
    /// How the source's and the expanded model's cross-attention read what their encoders return.
    pub memory: (Option<Memory<'a>>, Option<Memory<'a>>),
}

impl<'a> Network<'a> {
    /// Holds one sublayer against another; both read and write the stream by `map`.
    pub fn pair(
        &self,
        map: &'a Map,
        (source, expanded): (&'a Sublayer, &'a Sublayer),
        place: &str,
    ) -> Result<Ledger> {
        let mut ledger = Ledger::new();
        if source.branches.len() != expanded.branches.len() {
            ledger.unknown(place, "the sublayers have different numbers of branches");
            return Ok(ledger);
        }
        for (s, t) in source.branches.iter().zip(&expanded.branches) {
            if let Some(what) = unproven(s).or(unproven(t)) {
                ledger.unknown(place, format!("no equation is known for {what}"));
                continue;
            }
            if let Some(reason) = incomparable(&s.op, &t.op) {
                ledger.unknown(place, reason);
                continue;
            }
            let norms = (s.norm.as_ref(), t.norm.as_ref());
            let Some(mut readers) = readers((self.source, self.expanded), map, norms)? else {
                ledger.unknown(place, NO_NORM);
                continue;
            };
            (readers.0.memory, readers.1.memory) = self.memory;
            if let (Some(s), Some(t)) = norms {
                self.epsilon(map, (s, t), place, &mut ledger);
            }
            self.branch(map, (&readers.0, &readers.1), (s, t), place, &mut ledger)?;
        }
        Ok(ledger)
    }

    fn branch(
        &self,
        map: &Map,
        readers: (&Reader<'a>, &Reader<'a>),
        (source, expanded): (&'a Branch, &'a Branch),
        place: &str,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let s = writes(readers.0, &source.op)?;
        let t = writes(readers.1, &expanded.op)?;
        let shared = readers.1.shared_by(&expanded.op);
        let found = equations(Some(&s), Some(&t), map, self.layer_norm, shared);
        for residual in found.residuals() {
            if residual.holds() && residual.entries > 0 {
                ledger.hold(residual);
            }
        }
        if found.hold() {
            return Ok(());
        }
        let halves = (Some((readers.0, &source.op)), Some((readers.1, &expanded.op)));
        let case = Case { halves, map, modulo_one: self.layer_norm };
        let accused = Accused { readers, ops: (&source.op, &expanded.op), writes: (&s, &t), case };
        ledger.fail(told(accused.blame(&found)?, place));
        Ok(())
    }

    /// Holds that a sublayer writes nothing: of the expanded model, or of the source.
    pub fn alone(
        &self,
        map: &'a Map,
        sublayer: &'a Sublayer,
        expanded: bool,
        place: &str,
    ) -> Result<Ledger> {
        let mut ledger = Ledger::new();
        for branch in &sublayer.branches {
            if let Some(what) = unproven(branch) {
                ledger.unknown(place, format!("no equation is known for {what}"));
                continue;
            }
            let side = if expanded { self.expanded } else { self.source };
            if let Some(entries) = writes_zeros(side, branch)? {
                let lenses = branch.op.linears().into_iter().flat_map(|l| l.lenses());
                let norms = branch.norm.iter().flat_map(Norm::lenses);
                // What feeds zeros does not matter, but it must be there, and finite.
                lenses.chain(norms).try_for_each(|lens| side.is_zero(lens).map(|_| ()))?;
                ledger.hold(&Residual::zero(entries));
                continue;
            }
            let through = expanded.then_some(map);
            let Some(mut reader) = reader_alone(side, through, branch.norm.as_ref()) else {
                ledger.unknown(place, NO_NORM);
                continue;
            };
            reader.memory = if expanded { self.memory.1 } else { self.memory.0 };
            let written = writes(&reader, &branch.op)?;
            let (source, target) = match expanded {
                true => (None, Some(&written)),
                false => (Some(&written), None),
            };
            let found = equations(source, target, map, self.layer_norm, 0.0);
            if found.hold() {
                found.residuals().into_iter().for_each(|residual| ledger.hold(residual));
            } else {
                let half = (&reader, &branch.op);
                let halves = if expanded { (None, Some(half)) } else { (Some(half), None) };
                let case = Case { halves, map, modulo_one: self.layer_norm };
                ledger.fail(told(alone(half, &found, &case)?, place));
            }
        }
        Ok(ledger)
    }

    /// `ε_T = η² ε_S`, to the precision in which norms are computed.
    pub fn epsilon(&self, map: &Map, norms: (&Norm, &Norm), place: &str, ledger: &mut Ledger) {
        let (s, t) = norms;
        let Some(eta_squared) = eta_squared(map, s.kind) else { return };
        let expected = eta_squared * s.eps;
        // ε is a number of the configuration, exact to f64; but every framework that computes in
        // 32 bits or less adds it as an f32.
        let file = unit(Dtype::F32).min(self.expanded.unit_of_gamma(t));
        let bound = expected * (file + 2.0 * map.scale_error);
        let difference = t.eps - expected;
        let units = if difference == 0.0 { 0.0 } else { difference.abs() / bound };
        let mut residual = Residual::new(0.0);
        (residual.expected, residual.got, residual.units) = (expected, t.eps, units);
        residual.entries = 1;
        residual.exact = units <= 1e-6;
        if units <= super::bounded::UNITS {
            return ledger.hold(&residual);
        }
        let ratio = t.eps / s.eps;
        let eta = eta_squared.sqrt();
        let near = |x: f64| (ratio / x - 1.0).abs() < 1e-3;
        let known = match () {
            _ if near(1.0) => "ε is not scaled",
            _ if near(eta) => "ε is scaled by eta, not by its square",
            _ if near(1.0 / eta_squared) => "ε is scaled by the inverse",
            _ => "ε is not the source's times eta squared",
        };
        let field = t.eps_field.unwrap_or("ε (fixed in the family's code)");
        ledger.fail(Failure {
            rule: "ε of a norm must be the source's times eta squared".into(),
            place: place.into(),
            tensor: field.into(),
            source_tensor: s.eps_field.unwrap_or("ε").into(),
            index: Vec::new(),
            expected,
            got: t.eps,
            units,
            relative: (difference / expected).abs(),
            wrong: 1,
            entries: 1,
            cause: Some(format!("{known}: it must be {expected:e}")),
            reach: Reach::Epsilon,
        });
    }
}

/// How many zeros a branch writes with, if all that it writes is multiplied by zero.
fn writes_zeros(side: &Side, branch: &Branch) -> Result<Option<usize>> {
    let out: Vec<&Lens> = branch.op.writers().into_iter().flat_map(Linear::lenses).collect();
    for lens in &out {
        if !side.is_zero(lens)? {
            return Ok(None);
        }
    }
    Ok(Some(out.into_iter().map(|lens| lens.rows() * lens.cols()).sum()))
}

/// The part of a branch for which there are no equations.
fn unproven(branch: &Branch) -> Option<&'static str> {
    match &branch.op {
        _ if branch.post_norm.is_some() => Some("a norm behind a branch"),
        _ if branch.scale.is_some() => Some("LayerScale"),
        Op::Attention(a) if a.head_norms.is_some() => Some("norms of queries and keys"),
        Op::Attention(a) if a.softcap.is_some() => Some("a soft cap on attention logits"),
        Op::Attention(a) if a.window.is_some() => Some("a sliding window"),
        Op::Attention(a)
            if a.rotary.as_ref().is_some_and(|r| 2 * r.frequencies.len() != a.head_dim) =>
        {
            Some("partial rotary positions")
        }
        Op::Experts(_) => Some("a mixture of experts"),
        _ => None,
    }
}

pub(super) const NO_NORM: &str =
    "the norm does not commute with the map of the stream, or the two norms are of other kinds";

/// A blamed tensor as a failure.
pub(super) fn told((rule, blame): Verdict, place: &str) -> Failure {
    let tensors = (blame.tensor, blame.source_tensor);
    let index = blame.tensor.stored_index(blame.at.0, blame.at.1);
    failure(rule, Place { name: place, tensors }, &blame.residual, index, blame.cause)
}

/// `attention`, `cross-attention` or `MLP`.
pub(super) fn kind(sublayer: &Sublayer) -> &'static str {
    match sublayer.branches.first().map(|b| &b.op) {
        Some(Op::Attention(attention)) if attention.reads_encoder => "cross-attention",
        Some(Op::Attention(_)) => "attention",
        _ => "MLP",
    }
}
