//! The equations of one sublayer pair, or of a sublayer that stands alone.

use super::blame::{Accused, NOTHING, Verdict, alone};
use super::bounded::Bounded;
use super::certificate::Failure;
use super::channels::{compare, equations, is_ambiguous};
use super::experts::Mixtures;
use super::fields::window;
use super::layer_scale::scale_fault;
use super::map::Map;
use super::ops::{incomparable, writes};
use super::reader::{Memory, Reader, reader_alone, readers};
use super::side::Side;
use super::spread::{Spread, read_equally};
use super::squares::{Ledger, Place, Residual, failure};
use super::streamed;
use super::suspect::Case;
use super::words::Silent;
use crate::error::Result;
use crate::model::{Branch, Lens, Linear, Norm, NormKind, Op, Sublayer};

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
        let mut constants = Vec::new();
        for (s, t) in source.branches.iter().zip(&expanded.branches) {
            if let Some(what) = unproven(s).or(unproven(t)) {
                ledger.unknown(place, format!("no equation is known for {what}"));
                continue;
            }
            if let Some(other) = incomparable(&s.op, &t.op) {
                self.other_code(other, place, &mut ledger);
                continue;
            }
            if let (Op::Attention(s), Op::Attention(t)) = (&s.op, &t.op) {
                window(s, t, place, &mut ledger);
            }
            let norms = (s.norm.as_ref(), t.norm.as_ref());
            let Some(mut readers) = readers((self.source, self.expanded), map, norms)? else {
                ledger.unknown(place, NO_NORM);
                continue;
            };
            (readers.0.memory, readers.1.memory) = self.memory;
            (readers.0.scale, readers.1.scale) = (s.scale.as_ref(), t.scale.as_ref());
            if let (Some(s), Some(t)) = norms {
                self.epsilon(map, (s, t), place, &mut ledger);
            }
            let both = (&readers.0, &readers.1);
            if let (Op::Experts(s), Op::Experts(t)) = (&s.op, &t.op) {
                let (modulo_one, ops) = (self.layer_norm, (&**s, &**t));
                let mixtures = Mixtures { readers: both, ops, map, modulo_one, place };
                self.experts(&mixtures, &mut ledger)?;
                continue;
            }
            let (inner, modulo_one) = match (&s.post_norm, &t.post_norm) {
                (None, None) => (map.clone(), self.layer_norm),
                (Some(a), Some(b)) => {
                    let at = (place, &mut ledger);
                    match self.in_front_of_norm(map, (a, b), both, (s, t), at)? {
                        Some(inner) => (inner, a.kind == NormKind::Layer),
                        None => continue,
                    }
                }
                _ => {
                    ledger.unknown(place, "only one of the two has a norm behind the branch");
                    continue;
                }
            };
            let target = (&inner, modulo_one);
            constants.push(self.branch(target, both, (s, t), place, &mut ledger)?);
        }
        let normed = source.branches.iter().any(|branch| branch.post_norm.is_some());
        self.constants(map, constants, normed, &mut ledger);
        Ok(ledger)
    }

    /// Holds a branch, but leaves its constant to the caller.
    fn branch(
        &self,
        (map, modulo_one): (&Map, bool),
        readers: (&Reader, &Reader),
        (source, expanded): (&Branch, &Branch),
        place: &str,
        ledger: &mut Ledger,
    ) -> Result<Constants> {
        let target = (map, modulo_one);
        if self.expanded.is_streamed()
            && let Some(held) = streamed::branch(target, readers, (source, expanded), place)?
        {
            ledger.append(held.ledger);
            let (source, expanded) = held.constants;
            return Ok(Constants { source, expanded, failure: None });
        }
        let s = writes(readers.0, &source.op)?;
        let t = writes(readers.1, &expanded.op)?;
        let shared = readers.1.shared_by(&expanded.op);
        let found = equations(Some(&s), Some(&t), map, modulo_one, shared);
        for residual in found.residuals() {
            if residual.holds() && residual.entries > 0 {
                ledger.hold(residual);
            }
        }
        ledger.certificate.exact &= !found.drops;
        if found.inside_holds() && found.products.is_empty() {
            let (notes, ops) = (&mut ledger.notes, (&source.op, &expanded.op));
            notes.spreads.extend(Spread::of(place, ops, readers.1.side, &t, &found.groups)?);
            notes.equal_reads.extend(read_equally(readers.1, &expanded.op)?);
        }
        let mut failure = None;
        let clear = found.inside_holds() && found.agreement.head_epsilons.is_empty();
        if let (Some(head), false) = (s.blurred_head().or(t.blurred_head()), clear) {
            ledger.unknown(place, blurred(head));
            return Ok(Constants { source: s.bias, expanded: t.bias, failure });
        }
        let holds = found.hold() && found.agreement.head_epsilons.is_empty();
        let ambiguous = !holds && is_ambiguous((Some(&s), Some(&t)), (map, modulo_one), &found);
        self.head_epsilons((&found, ambiguous), &expanded.op, place, ledger);
        if !found.hold() {
            let halves = (Some((readers.0, &source.op)), Some((readers.1, &expanded.op)));
            let case = Case { halves, map, modulo_one };
            let ops = (&source.op, &expanded.op);
            let accused = Accused { readers, ops, writes: (&s, &t), case };
            let verdict = match scale_fault(readers, (&s, &expanded.op), (map, modulo_one))? {
                Some(verdict) => verdict,
                None => accused.blame(&found)?,
            };
            let told = doubted(told(verdict, place), ambiguous);
            match found.inside_holds() {
                true => failure = Some(told),
                false => ledger.fail(told),
            }
        }
        Ok(Constants { source: s.bias, expanded: t.bias, failure })
    }

    /// Branches are added up, so that a constant may move from one to another: their sum decides.
    fn constants(&self, map: &Map, branches: Vec<Constants>, normed: bool, ledger: &mut Ledger) {
        let wrong = branches.iter().any(|branch| branch.failure.is_some());
        if wrong && branches.len() > 1 && !normed {
            let sum = |side: fn(&Constants) -> &Bounded| {
                let first = side(&branches[0]).clone();
                branches[1..].iter().fold(first, |sum, branch| sum.plus(side(branch)))
            };
            let (lhs, rhs) = (sum(|branch| &branch.expanded), map.image(&sum(|b| &b.source)));
            let (residual, _) = compare(lhs, rhs, self.layer_norm, map.scale_error);
            if residual.holds() {
                return ledger.hold(&residual);
            }
        }
        branches.into_iter().filter_map(|branch| branch.failure).for_each(|f| ledger.fail(f));
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
        let side = if expanded { self.expanded } else { self.source };
        let mut zero = true;
        for branch in &sublayer.branches {
            let zeros = writes_zeros(side, branch)?;
            if let (None, Some(what)) = (zeros, unproven(branch)) {
                ledger.unknown(place, format!("no equation is known for {what}"));
                continue;
            }
            zero &= zeros.is_some();
            if zeros.is_some() || branch.post_norm.is_some() {
                // What feeds zeros does not matter, but it must be there, and finite.
                branch.lenses().try_for_each(|lens| side.is_zero(lens).map(|_| ()))?;
            }
            match (zeros, &branch.post_norm) {
                (Some(entries), _) => ledger.hold(&Residual::zero(entries)),
                (None, Some(norm)) => ledger.fail(left_behind_norm(side, branch, norm, place)?),
                (None, None) => {
                    self.written_alone(map, (side, branch), expanded, place, &mut ledger)?
                }
            }
        }
        if ledger.faults() == 0.0 {
            ledger.notes.silent.push(Silent { place: place.into(), zero, expanded });
        }
        Ok(ledger)
    }

    /// Holds that what an op writes sums to zero.
    fn written_alone(
        &self,
        map: &'a Map,
        (side, branch): (&'a Side<'a>, &'a Branch),
        expanded: bool,
        place: &str,
        ledger: &mut Ledger,
    ) -> Result<()> {
        let Some(mut reader) = reader_alone(side, expanded.then_some(map), branch.norm.as_ref())
        else {
            ledger.unknown(place, NO_NORM);
            return Ok(());
        };
        reader.scale = branch.scale.as_ref();
        reader.memory = if expanded { self.memory.1 } else { self.memory.0 };
        // Of a mixture, every expert by itself: then it does not matter which are active.
        let ops: Vec<Op> = match &branch.op {
            Op::Experts(experts) => {
                experts.router.lenses().try_for_each(|lens| side.is_zero(lens).map(|_| ()))?;
                experts.experts.iter().map(|mlp| Op::Mlp(Box::new(mlp.clone()))).collect()
            }
            op => vec![op.clone()],
        };
        for op in &ops {
            let written = writes(&reader, op)?;
            let (source, target) = match expanded {
                true => (None, Some(&written)),
                false => (Some(&written), None),
            };
            let found = equations(source, target, map, self.layer_norm, 0.0);
            if let (Some(head), false) = (written.blurred_head(), found.hold()) {
                ledger.unknown(place, blurred(head));
                continue;
            }
            if found.hold() {
                found.residuals().for_each(|residual| ledger.hold(residual));
                ledger.certificate.exact &= !found.drops;
                continue;
            }
            let ambiguous = is_ambiguous((source, target), (map, self.layer_norm), &found);
            let half = (&reader, op);
            let halves = if expanded { (None, Some(half)) } else { (Some(half), None) };
            let case = Case { halves, map, modulo_one: self.layer_norm };
            ledger.fail(doubted(told(alone(half, &found, &case)?, place), ambiguous));
        }
        Ok(())
    }
}

/// The constants that a pair of branches writes, and the failure if they alone disagree.
struct Constants {
    source: Bounded,
    expanded: Bounded,
    failure: Option<Failure>,
}

/// How many zeros a branch writes with, if all that it writes is multiplied by zero: by its writer,
/// by the norm behind that, or by LayerScale.
fn writes_zeros(side: &Side, branch: &Branch) -> Result<Option<usize>> {
    if let Some(scale) = &branch.scale
        && side.is_zero(scale)?
    {
        return Ok(Some(scale.rows()));
    }
    if let Some(norm) = &branch.post_norm {
        if let Some(bias) = &norm.bias
            && !side.is_zero(bias)?
        {
            return Ok(None);
        }
        if let Some(weight) = &norm.weight
            && side.gamma(norm, weight.rows())?.value.iter().all(|gamma| *gamma == 0.0)
        {
            return Ok(Some(weight.rows()));
        }
    }
    let out: Vec<&Lens> = branch.op.writers().into_iter().flat_map(Linear::lenses).collect();
    for lens in &out {
        if !side.is_zero(lens)? {
            return Ok(None);
        }
    }
    Ok(Some(out.into_iter().map(|lens| lens.rows() * lens.cols()).sum()))
}

/// An inserted branch whose norm makes something of what its op writes. Fan-outs that cancel are no
/// way out: what rounding leaves of them, the norm divides by as little.
fn left_behind_norm(side: &Side, branch: &Branch, norm: &Norm, place: &str) -> Result<Failure> {
    let writer = &branch.op.writers()[0].weight;
    let (tensor, got) = match (&norm.weight, &norm.bias) {
        (_, Some(bias)) if !side.is_zero(bias)? => (bias, side.read(bias)?),
        (Some(weight), _) => (weight, side.gamma(norm, weight.rows())?),
        (None, _) => (writer, side.read(writer)?),
    };
    let residual = Residual::of(&got, &Bounded::zeros(got.rows(), got.cols()), 0.0);
    let index = tensor.stored_index(residual.worst.0, residual.worst.1);
    let cause = format!(
        "a norm behind the branch enlarges whatever is left: γ and β must be zero, or `{}` and its \
         bias exactly zero",
        writer.name()
    );
    let place = Place { name: place, tensors: (tensor, tensor) };
    Ok(failure(NOTHING, place, &residual, index, Some(cause)))
}

/// The part of a branch for which there are no equations.
fn unproven(branch: &Branch) -> Option<&'static str> {
    if let Op::Attention(attention) = &branch.op {
        // What is constant over the keys is so no more behind a soft cap.
        if attention.relative.is_some() && attention.softcap.is_some() {
            return Some("a bias for each distance behind a soft cap");
        }
    }
    let experts = matches!(branch.op, Op::Experts(_));
    match (&branch.post_norm, &branch.scale) {
        (Some(_), Some(_)) => Some("LayerScale behind a norm"),
        (Some(_), _) if experts => Some("a norm behind a mixture of experts"),
        (_, Some(_)) if experts => Some("LayerScale behind a mixture of experts"),
        _ => None,
    }
}

/// Why nothing is known of a branch with this head.
fn blurred(head: usize) -> String {
    format!(
        "the rows of head {head} that a norm of queries or keys reads cancel down to their \
         rounding, which the norm enlarges: nothing can be told from them"
    )
}

pub(super) const NO_NORM: &str =
    "the norm does not commute with the map of the stream, or the two norms are of other kinds";

/// A blamed tensor as a failure.
pub(super) fn told((rule, blame): Verdict, place: &str) -> Failure {
    let tensors = (blame.tensor, blame.source_tensor);
    let index = blame.tensor.stored_index(blame.at.0, blame.at.1);
    failure(rule, Place { name: place, tensors }, &blame.residual, index, blame.cause)
}

/// The failure, of channels that may correspond to others where this is `ambiguous`.
fn doubted(failure: Failure, ambiguous: bool) -> Failure {
    Failure { doubtful: failure.doubtful || ambiguous, ..failure }
}

/// `attention`, `cross-attention`, `MLP` or `experts`.
pub(super) fn kind(sublayer: &Sublayer) -> &'static str {
    match sublayer.branches.first().map(|b| &b.op) {
        Some(Op::Attention(attention)) if attention.reads_encoder => "cross-attention",
        Some(Op::Attention(_)) => "attention",
        Some(Op::Experts(_)) => "experts",
        _ => "MLP",
    }
}
