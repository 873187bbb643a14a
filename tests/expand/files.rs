//! Every golden model through every rule, from the files: expanded, written, read back, proven,
//! and run in f64 and in f32. What a model refuses is in [`REFUSED`], with the reason it must give.
//!
//! In f32 there is no fixed tolerance that fits all models: what counts is the error that the
//! source has itself, of its forward pass in f32 against its own in f64, with the same weights. The
//! norm is over all numbers of all outputs. A source may be exact by chance, so that its error
//! counts at least u = 2⁻²⁴ times the norm of its outputs: as much as the rounding of the outputs
//! alone may be, before any of the roundings inside. An expansion may be off by [`TIMES`] as much.

use super::compare::{Of, pairs};
use super::golden::{Case, cases};
use super::targets::is_head_size_fixed;
use lemon_check::check::{Verdict, check};
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, Tensor, save};
use lemon_check::error::Class;
use lemon_check::expand::{NewLayers, Options, Target, expand};
use lemon_check::forward::{Input, Outputs, Real, run_batch};
use lemon_check::model::{describe, families};
use std::collections::BTreeSet;
use std::path::Path;

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A width that is no multiple.
    Indivisible,
    /// Twice the query heads: on a stream of twice the width, where heads divide it.
    Heads,
    /// Twice the key/value heads; where queries are not grouped, twice the query heads as well.
    KeyValueHeads,
    /// Twice the channels per head: on a stream of twice the width, where heads divide it.
    HeadSize,
    /// More than twice the neurons.
    Neurons,
    /// Twice the experts.
    Experts,
    /// New layers that end in zeros.
    Deeper,
    /// New layers that end in fan-outs that cancel, in a model with two copies of each head and
    /// each neuron.
    DeeperCancelling,
    /// Twice the width and the heads, more neurons and a new layer.
    Together,
}

use Rule::*;

/// Which rules are refused by which families or golden models, and the words that say why. A
/// family is named where no golden model of it takes the rule.
const REFUSED: &[(&[Rule], &str, &str)] = &[
    (&[Indivisible], "roberta distilbert bert-mlm bert-mlm-relu bert-model opt-post-norm", POST_LN),
    (&[Indivisible], "timm-clip timm-post-res-norm", "a stream that norms write"),
    (&[Indivisible, Together], "olmo-bias", "no weight of a norm in front of it can make up for"),
    (&[Indivisible], "olmo-base", "norms without a weight in front of what is returned"),
    (&[Indivisible], "timm-features", "a stream that is returned as it is"),
    (&[KeyValueHeads], UNGROUPED, "no key/value heads of their own"),
    (&[HeadSize], "qwen3 phi-qk-norm timm-clip", "norms of queries and keys (QK-norm) see every"),
    (&[Experts], DENSE, "this model has no experts"),
    (DEPTH, "roberta distilbert bert-mlm bert-mlm-relu bert-model opt-post-norm", NO_NEW_LAYER),
    (
        &[DeeperCancelling],
        "gemma2 timm-post-res-norm",
        "fan-outs that cancel leave rounding errors",
    ),
];
const DEPTH: &[Rule] = &[Deeper, DeeperCancelling, Together];
const POST_LN: &str = "norms of the stream itself (Post-LN) allow only multiples";
const NO_NEW_LAYER: &str = "norms of the stream itself (Post-LN) allow no new layer";
const UNGROUPED: &str = "gpt2 gpt_neox opt bert roberta distilbert vit deit vit_timm t5";
const DENSE: &str = "gpt2 gpt_neox opt phi llama mistral qwen2 qwen3 gemma gemma2 phi3 stablelm \
                     olmo bert roberta distilbert vit deit vit_timm t5";

/// What `rule` asks of `case`.
fn target(rule: Rule, case: &Case) -> Target {
    let sizes = &case.model.sizes;
    let fixed = is_head_size_fixed(case);
    let keep = Target::default;
    // Twice the heads; and twice the width, where heads divide it.
    let hidden = fixed.then_some(2 * sizes.hidden);
    let twice = Target { hidden, heads: Some(2 * sizes.heads), ..keep() };
    match rule {
        Indivisible if fixed => {
            let grouped = sizes.kv_heads < sizes.heads;
            let heads = sizes.heads + if grouped { sizes.kv_heads } else { 1 };
            Target { hidden: Some(heads * sizes.head_dim), heads: Some(heads), ..keep() }
        }
        Indivisible => Target { hidden: Some(sizes.hidden + 5), ..keep() },
        Heads => twice,
        KeyValueHeads => {
            let kv_heads = Some(2 * sizes.kv_heads);
            let grouped = case.model.family.fields.kv_heads.is_some();
            match grouped && !sizes.heads.is_multiple_of(2 * sizes.kv_heads) {
                true => Target { kv_heads, ..twice },
                false => Target { kv_heads, ..keep() },
            }
        }
        HeadSize if fixed => Target { hidden, ..keep() },
        HeadSize => Target { head_dim: Some(2 * sizes.head_dim), ..keep() },
        Neurons => Target { intermediate: Some(2 * sizes.intermediate + 3), ..keep() },
        Experts => Target { experts: sizes.experts.map_or(Some(2), |n| Some(2 * n.all)), ..keep() },
        Deeper => Target { layers: Some(sizes.layers + 2), ..keep() },
        DeeperCancelling => Target {
            layers: Some(sizes.layers + 2),
            intermediate: Some(2 * sizes.intermediate),
            ..twice
        },
        Together => Target {
            hidden: Some(2 * sizes.hidden),
            intermediate: Some(2 * sizes.intermediate + 1),
            layers: Some(sizes.layers + 1),
            ..twice
        },
    }
}

/// The same model with weights rounded to f32.
fn rounded(checkpoint: &Checkpoint) -> Checkpoint {
    let tensors = checkpoint.tensors().iter().map(|(name, tensor)| {
        let Some(dtype) = tensor.dtype else { return (name.clone(), tensor.clone()) };
        let values = (0..tensor.len()).map(|at| dtype.get(tensor.bytes(), at));
        (name.clone(), Tensor::from_values(Dtype::F32, tensor.shape.clone(), values))
    });
    Checkpoint::in_memory("rounded", checkpoint.config().clone(), tensors.collect())
}

/// Writes `made`, reads it again, and has the check judge it by its files.
fn from_file(source: &Checkpoint, made: &Checkpoint, file: &Path, what: &str) -> Checkpoint {
    save(file, made.config(), made.tensors(), SHARD_LIMIT).unwrap();
    let expanded = Checkpoint::open(file, None).unwrap();
    let found = check(source, &expanded, &|_, _| ()).unwrap();
    let certificate = &found.certificate;
    let shown = (certificate.failures.first(), certificate.unknown.first());
    assert_eq!(found.verdict, Verdict::Lossless, "{what}: {shown:?}");
    assert!(certificate.proves_lossless(), "{what}: {shown:?}");
    expanded
}

fn run<R: Real>(of: Of, inputs: &[Input]) -> Vec<Outputs<R>> {
    run_batch(of.0, of.1, inputs).unwrap()
}

/// The norm, over all outputs, of what `got` is off by, and of what is `wanted`.
fn apart<R: Real>(wanted: &[Outputs<f64>], got: &[Outputs<R>]) -> (f64, f64) {
    let (mut error, mut size) = (0.0f64, 0.0f64);
    for (want, got) in pairs(wanted, got) {
        (error, size) = (error + (want - got).powi(2), size + want.powi(2));
    }
    (error.sqrt(), size.sqrt())
}

/// Puts one model through `rule`, in f64 and in f32: how many times the source's error in f32 its
/// expansion's is.
///
/// # Errors
/// The message, where the rule is refused.
fn expanded(rule: Rule, case: &Case, seed: u64, folder: &Path) -> Result<f64, String> {
    let new_layers = if rule == DeeperCancelling { NewLayers::Cancel } else { NewLayers::Zero };
    let options = Options { target: target(rule, case), seed, new_layers, ..Options::default() };
    let what = format!("{} {rule:?}", case.name);
    let file = folder.join(format!("{what}.safetensors"));
    let source = (&case.checkpoint, &case.model);
    let made = match expand(source.0, source.1, &options) {
        Ok(made) => made,
        Err(error) => {
            assert_eq!(error.class(), Class::Refused, "{what}: {error}");
            return Err(error.to_string());
        }
    };
    let large = from_file(source.0, &made, &file, &what);
    let model = describe(&large).unwrap();
    let wanted = run::<f64>(source, &case.inputs);
    let (error, size) = apart(&wanted, &run::<f64>((&large, &model), &case.inputs));
    assert!(error < 1e-9 * size, "{what}: {error:e} of {size:e}");

    let small = rounded(source.0);
    let source = (&small, &describe(&small).unwrap());
    let made = expand(source.0, source.1, &options).unwrap();
    let large = from_file(source.0, &made, &file, &what);
    let model = describe(&large).unwrap();
    let wanted = run::<f64>(source, &case.inputs);
    let (own, _) = apart(&wanted, &run::<f32>(source, &case.inputs));
    let (error, size) = apart(&wanted, &run::<f32>((&large, &model), &case.inputs));
    Ok(error / own.max(f32::UNIT_ROUNDOFF * size))
}

/// How many times the source's error in f32 that of an expansion may be.
const TIMES: f64 = 50.0;

fn every_golden_model(rule: Rule) {
    let folder = tempfile::tempdir().unwrap();
    let entries = || REFUSED.iter().filter(|(rules, ..)| rules.contains(&rule));
    let mut done = BTreeSet::new();
    // Names in the entries that a refusal was found for.
    let mut used = BTreeSet::new();
    for (seed, case) in cases().iter().enumerate() {
        let family = case.model.family.name;
        match expanded(rule, case, seed as u64, folder.path()) {
            Ok(times) => {
                println!("{rule:?} of {}: {times:.1} times the source's error", case.name);
                assert!(times <= TIMES, "{rule:?} of {}: {times}", case.name);
                done.insert(family);
            }
            Err(message) => {
                let named = |names: &'static str| {
                    names.split(' ').find(|name| [&*case.name, family].contains(name))
                };
                let known = entries().find_map(|(_, names, words)| Some((named(names)?, words)));
                let Some((name, words)) = known else { panic!("{}: {message}", case.name) };
                assert!(message.contains(words) && message.contains("help:"), "{message}");
                used.insert(name);
            }
        }
    }
    let listed: BTreeSet<&str> = entries().flat_map(|(_, names, _)| names.split(' ')).collect();
    assert_eq!(used, listed, "{rule:?} is refused by the second, and was by the first");
    // Free form has no golden model of a library: random ones are expanded by tests of their own.
    let all = families().iter().map(|family| family.name).filter(|name| *name != "free_form");
    let missing: Vec<&str> = all.filter(|name| !done.contains(name)).collect();
    let impossible = families().iter().map(|f| f.name).filter(|name| listed.contains(name));
    assert_eq!(missing, impossible.collect::<Vec<_>>(), "no model of these families took {rule:?}");
}

macro_rules! from_files {
    ($($rule:ident, $test:ident;)*) => {
        $(#[test]
        fn $test() {
            every_golden_model($rule);
        })*
    };
}

from_files! {
    Indivisible, widths_that_are_no_multiples_are_lossless_from_the_files;
    Heads, more_heads_are_lossless_from_the_files;
    KeyValueHeads, more_key_value_heads_are_lossless_from_the_files;
    HeadSize, larger_heads_are_lossless_from_the_files;
    Neurons, more_neurons_are_lossless_from_the_files;
    Experts, more_experts_are_lossless_from_the_files;
    Deeper, new_layers_of_zeros_are_lossless_from_the_files;
    DeeperCancelling, new_layers_that_cancel_are_lossless_from_the_files;
    Together, everything_at_once_is_lossless_from_the_files;
}
