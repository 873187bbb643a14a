//! The certificate: a proof of losslessness from the weights alone, for all inputs.
//!
//! For each activation space of the source there is a linear map `E` to the matching space of the
//! expanded model with `x_T = E x_S` for every input. The expanded model computes what the source
//! computes if every operation commutes with these maps. Each such *square* is an equation between
//! weights; squares compose, so if all hold and the last map is the identity on the logits, the two
//! models are equal as functions. No input is sampled.
//!
//! | equation | where |
//! | --- | --- |
//! | embeddings: `Emb_T = Emb_S Eᵀ` | `stream` |
//! | norm and its readers, with γ and β folded in | `reader` |
//! | neurons and heads in groups, fan-outs summed | `channels`, `cluster`, `pattern` |
//! | norms of queries and keys | `head_norm` |
//! | norms behind a branch | `branch_norm` |
//! | norms of the stream itself, also in a row | `rows` |
//! | mixtures of experts | `experts` |
//! | sublayers that write nothing | `align`, `sublayer` |
//! | `ε_T = η² ε_S`, windows, active experts | `fields` |
//! | the base of rotary frequencies | `frequencies` |
//! | heads | `outputs` |
//!
//! The equations are sufficient, not necessary: one that fails is a reason to look for an input on
//! which the models differ, which [`crate::check`] does.

mod agreement;
mod align;
mod attention_blame;
mod blame;
mod bounded;
mod branch_norm;
mod certificate;
mod channels;
mod cluster;
mod convolutional;
mod discover;
mod experts;
mod explain;
mod fields;
mod floors;
mod frequencies;
mod head_norm;
mod inputs;
mod junction;
mod layer_scale;
mod map;
mod negligible;
mod ops;
mod outputs;
mod pattern;
mod products;
mod range;
mod reader;
mod rounded;
mod rows;
mod side;
mod spread;
mod squares;
mod stack;
mod stored;
mod stream;
mod streamed;
mod sublayer;
mod suspect;
mod twins;
mod words;
mod writes;

pub use bounded::UNITS;
pub use certificate::{Certificate, Failure, MapInWords, Reach, Unknown};
pub use convolutional::certify_convnets;
pub use junction::Junction;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::{Model, Norm, NormKind, Output, Step, Sublayer};
use align::Pair;
use fields::OtherCode;
use map::Map;
use rayon::prelude::*;
use side::{Caps, Side};
use squares::Ledger;
use stack::Stack;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use sublayer::{NO_NORM, Network, kind};

/// Holds every equation against the weights of two models.
///
/// `progress` is called with the bytes of weights read so far and in all; it may be called from
/// several threads, and the first may exceed the second where an equation must be held twice.
///
/// # Errors
/// If a tensor cannot be read, or holds a number that is not finite.
pub fn certify(
    source: (&Checkpoint, &Model),
    expanded: (&Checkpoint, &Model),
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Certificate> {
    certify_by(Method::Streamed, source, expanded, progress)
}

/// How equations are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// In one pass over the weights where units are copies, a few rows at a time; by whole matrices
    /// where they are not, or where an equation fails.
    Streamed,
    /// By whole matrices alone: slow, and the reference for the other.
    Whole,
}

/// [`certify`] by a method of the caller's. Verdicts do not depend on it.
///
/// # Errors
/// As [`certify`].
pub fn certify_by(
    method: Method,
    source: (&Checkpoint, &Model),
    expanded: (&Checkpoint, &Model),
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Certificate> {
    let mut certificate = held(method, source, expanded, progress)?;
    if let Some(failure) = frequencies::base_fault(source, expanded, &certificate)? {
        // With that base all hold: the others fail because of it.
        certificate.failures = vec![failure];
    }
    if let Some(first) = certificate.failures.first_mut()
        && first.reach != Reach::Epsilon
        && let Some(cause) = rounded::rounded(source.0, expanded.0, first.relative)
    {
        first.cause = Some(cause);
    }
    Ok(certificate)
}

/// [`certify`], but for what it takes a second look to name.
fn held(
    method: Method,
    source: (&Checkpoint, &Model),
    expanded: (&Checkpoint, &Model),
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<Certificate> {
    let total = bytes(source) + bytes(expanded);
    let done = AtomicU64::new(0);
    let count = |read: u64| progress(done.fetch_add(read, Ordering::Relaxed) + read, total);
    let caps = Caps::new(expanded.0, expanded.1);
    let sides = (
        Side::new(source.0, source.1, caps.clone(), &count).by(method),
        Side::new(expanded.0, expanded.1, caps, &count).by(method),
    );
    let mut ledger = Ledger::new();
    hold_all(&sides.0, &sides.1, &mut ledger)?;
    range::judgeable(&sides.0, "source", &mut ledger);
    range::judgeable(&sides.1, "expanded", &mut ledger);
    consumed(&sides.0, "source", &mut ledger);
    consumed(&sides.1, "expanded", &mut ledger);
    let mut certificate = ledger.certificate;
    keep_first_of_each_epsilon(&mut certificate);
    twins::doubt(&sides.0, &mut certificate)?;
    Ok(certificate)
}

fn bytes((checkpoint, model): (&Checkpoint, &Model)) -> u64 {
    let names: BTreeSet<&str> = model.lenses().iter().map(|lens| lens.name()).collect();
    let tensors = names.into_iter().filter_map(|name| checkpoint.tensor(name).ok());
    tensors.map(|tensor| tensor.bytes().len() as u64).sum()
}

fn hold_all(source: &Side, expanded: &Side, ledger: &mut Ledger) -> Result<()> {
    let (s, t) = (source.model, expanded.model);
    let layer_norm = reads_by_layer_norm_alone(s) && reads_by_layer_norm_alone(t);
    let encoded: Map;
    let mut network = Network { source, expanded, layer_norm, memory: (None, None) };
    match (s.encoder.as_deref(), t.encoder.as_deref()) {
        (None, None) => {}
        (Some(a), Some(b)) => {
            let stack = Stack {
                name: "encoder ",
                embeddings: (&a.embedding, &b.embedding),
                layers: (&a.layers, &b.layers),
            };
            let mut held = Ledger::new();
            let found = stack.hold(&network, &mut held)?;
            // They are told; the decoder has notes of its own.
            held.notes = Default::default();
            ledger.append(held);
            let Some((found, _)) = found else { return Ok(()) };
            encoded = found;
            let norms = (Some(&a.norm), Some(&b.norm));
            let Some(readers) = reader::readers((source, expanded), &encoded, norms)? else {
                ledger.unknown("encoder", NO_NORM);
                return Ok(());
            };
            network.epsilon(&encoded, (&a.norm, &b.norm), "encoder norm", ledger);
            network.memory = (Some(readers.0.as_memory()), Some(readers.1.as_memory()));
        }
        _ => {
            ledger.unknown("encoder", "only one of the two models has one");
            return Ok(());
        }
    }
    let stack = Stack {
        name: "",
        embeddings: (&s.embedding, &t.embedding),
        layers: (&s.layers, &t.layers),
    };
    let Some((map, junctions)) = stack.hold(&network, ledger)? else { return Ok(()) };
    ledger.certificate.junctions = junctions;
    if s.outputs.len() != t.outputs.len() {
        ledger.unknown("outputs", "the two models return different things");
    }
    for (a, b) in s.outputs.iter().zip(&t.outputs) {
        ledger.append(network.output(&map, a, b)?);
    }
    Ok(())
}

/// Whether a constant over the channels, added to a sum on the stream, changes nothing: all that
/// reads such a sum is a LayerNorm. (That of an encoder is not looked for.)
fn reads_by_layer_norm_alone(model: &Model) -> bool {
    if model.encoder.is_some() {
        return false;
    }
    let mut behind_norm = model.embedding.norm.is_some();
    for sublayer in model.layers.iter().flatten() {
        if !behind_norm && sublayer.branches.iter().any(|branch| branch.norm.is_none()) {
            return false;
        }
        behind_norm = sublayer.post_norm.is_some();
    }
    let first_step = |steps: &[Step]| {
        let picks = |step: &&Step| matches!(step, Step::Position(_) | Step::MeanFrom(_));
        steps.iter().find(|step| !picks(step)).is_some_and(is_norm)
    };
    let mut paths = model.outputs.iter().flat_map(Output::paths);
    let outputs = behind_norm || paths.all(first_step);
    outputs && norms(model).iter().all(|norm| norm.kind == NormKind::Layer)
}

fn is_norm(step: &Step) -> bool {
    matches!(step, Step::Norm(_))
}

/// All norms of a model.
fn norms(model: &Model) -> Vec<&Norm> {
    let sublayers = model.layers.iter().flatten();
    let inner = sublayers.flat_map(|sublayer| {
        sublayer.branches.iter().filter_map(|b| b.norm.as_ref()).chain(&sublayer.post_norm)
    });
    let steps = model.outputs.iter().flat_map(Output::paths).flatten();
    let last = steps.filter_map(|step| match step {
        Step::Norm(norm) => Some(norm),
        _ => None,
    });
    model.embedding.norm.iter().chain(inner).chain(last).collect()
}

/// The map of the stream behind the last layer, and all places where the streams correspond.
type Behind = (Map, Vec<Junction>);

/// Holds the layers of a stack.
fn layers(network: &Network, map: Map, stack: &Stack, ledger: &mut Ledger) -> Result<Behind> {
    let first = Junction::first(map.clone(), network.layer_norm);
    let (s, t) = (stack.layers.0.concat(), stack.layers.1.concat());
    let places = places(stack);
    let parallel = |sublayers: &[Sublayer]| sublayers.iter().any(|s| s.branches.len() > 1);
    if parallel(&s) != parallel(&t) {
        let reason = "attention and MLP read the same stream in one model alone".into();
        let other = OtherCode { reason, fields: &["use_parallel_residual", "norm_place"] };
        network.other_code(other, "layers", ledger);
        return Ok((map, vec![first]));
    }
    if s.iter().chain(&t).any(|sublayer| sublayer.post_norm.is_some()) {
        return rows::hold(network, (map, first), (&s, &t), &places, ledger);
    }
    let views = (s.iter().collect::<Vec<_>>(), t.iter().collect::<Vec<_>>());
    let align = || {
        let sides = (network.source, network.expanded);
        align::align(sides, (&views.0, &views.1), &map, network.layer_norm)
    };
    // In order, then by the cheap invariant, then by the equations themselves: the first alignment
    // that proves the layers is as good as any.
    let hold = |pairs: &[Pair]| hold_pairs(network, &map, (&s, &t), pairs, &places);
    let mut tried: Vec<(Vec<Pair>, Ledger)> = Vec::new();
    let obvious = match s.len() == t.len() {
        true => Some(align::in_order(s.len())),
        false => align::around_zeros((network.source, network.expanded), (&s, &t))?,
    };
    if let Some(pairs) = obvious {
        let found = hold(&pairs)?;
        tried.push((pairs, found));
    }
    let proven =
        |tried: &[(_, Ledger)]| tried.last().is_some_and(|(_, found)| found.faults() == 0.0);
    if !proven(&tried) {
        let pairs = align()?;
        if tried.iter().all(|(other, _)| *other != pairs) {
            let found = hold(&pairs)?;
            tried.push((pairs, found));
        }
    }
    if !proven(&tried) && numbers(&s).saturating_mul(t.len()) <= EXHAUSTIVE {
        let pairs = exhaustive(network, &map, (&s, &t))?;
        let found = hold(&pairs)?;
        tried.push((pairs, found));
    }
    let best = tried.into_iter().min_by(|(_, a), (_, b)| a.faults().total_cmp(&b.faults()));
    let (pairs, found) = best.expect("at least one alignment was tried");
    ledger.append(found);
    Ok((map, first.along(&pairs)))
}

/// Numbers of the source times expanded sublayers up to which every pair of sublayers is held.
const EXHAUSTIVE: usize = 1 << 24;

fn numbers(sublayers: &[Sublayer]) -> usize {
    let linears = sublayers.iter().flat_map(|s| &s.branches).flat_map(|b| b.op.linears());
    linears.map(|linear| linear.weight.rows() * linear.weight.cols()).sum()
}

/// The alignment with the fewest equations that fail, found by holding every pair of sublayers.
fn exhaustive(
    network: &Network,
    map: &Map,
    (s, t): (&[Sublayer], &[Sublayer]),
) -> Result<Vec<Pair>> {
    let failed = |found: Result<Ledger>| found.map(|ledger| ledger.faults());
    let costs: Vec<f64> = (0..(s.len() + 1) * (t.len() + 1))
        .into_par_iter()
        .map(|cell| match (cell / (t.len() + 1), cell % (t.len() + 1)) {
            (0, 0) => Ok(0.0),
            (0, j) => failed(network.alone(map, &t[j - 1], true, "")),
            (i, 0) => failed(network.alone(map, &s[i - 1], false, "")),
            (i, j) if kind(&s[i - 1]) != kind(&t[j - 1]) => Ok(1e6),
            (i, j) => failed(network.pair(map, (&s[i - 1], &t[j - 1]), "")),
        })
        .collect::<Result<_>>()?;
    let number = |index: Option<usize>| index.map_or(0, |i| i + 1);
    Ok(align::cheapest(s.len(), t.len(), |(i, j)| {
        let alone = if i.is_some() && j.is_some() { 0.0 } else { align::TIE };
        costs[number(i) * (t.len() + 1) + number(j)] + alone
    }))
}

fn places(stack: &Stack) -> Vec<String> {
    let layers = stack.layers.1.iter().enumerate();
    let place = |i: usize, s: &Sublayer| format!("{}layer {i} {}", stack.name, kind(s));
    layers.flat_map(|(i, layer)| layer.iter().map(move |s| place(i, s))).collect()
}

fn hold_pairs(
    network: &Network,
    map: &Map,
    (s, t): (&[Sublayer], &[Sublayer]),
    pairs: &[Pair],
    places: &[String],
) -> Result<Ledger> {
    let ledgers: Vec<Result<Ledger>> = pairs
        .par_iter()
        .map(|pair| match *pair {
            (Some(i), Some(j)) => network.pair(map, (&s[i], &t[j]), &places[j]),
            (None, Some(j)) => network.alone(map, &t[j], true, &places[j]),
            (Some(i), None) => {
                let place = format!("the source's sublayer {i} ({})", kind(&s[i]));
                network.alone(map, &s[i], false, &place)
            }
            (None, None) => Ok(Ledger::new()),
        })
        .collect();
    let mut all = Ledger::new();
    for ledger in ledgers {
        all.append(ledger?);
    }
    Ok(all)
}

/// A tensor that no equation has read is a reason to be undecided.
fn consumed(side: &Side, which: &str, ledger: &mut Ledger) {
    for name in side.unread() {
        ledger.unknown(format!("{which} tensor `{name}`"), "no equation has read it");
    }
    for name in side.model.strangers(side.checkpoint) {
        let reason = "it is no part of the model that the configuration describes";
        ledger.unknown(format!("{which} tensor `{name}`"), reason);
    }
}

/// One configuration field serves all norms: tell its failure once.
fn keep_first_of_each_epsilon(certificate: &mut Certificate) {
    let mut told = BTreeSet::new();
    certificate.failures.retain(|failure| {
        failure.reach != Reach::Epsilon
            || told.insert((failure.tensor.clone(), failure.expected.to_bits()))
    });
}
