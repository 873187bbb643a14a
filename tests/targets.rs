//! Random targets are legal, reach what they are meant to reach, and expand without loss.
//!
//! `LEMON_CASES` makes them more.

use lemon_check::Class;
use lemon_check::checkpoint::Dtype;
use lemon_check::forward::Input;
use lemon_check::model::{Input as Expected, Model, Op};
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::{cases_at_least, generator};
use lemon_check::testing::shrink::smallest;
use lemon_check::testing::{Architecture, Models, SourceCase, TargetCase, WeightStyle, inputs};
use std::collections::BTreeMap;

#[test]
fn random_targets_are_accepted_and_reach_every_kind_of_growth() {
    for architecture in Architecture::ALL {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for seed in 0..cases_at_least(300) {
            let models = Models::random(architecture, seed, |_| ()).unwrap();
            let (source, target) = (&models.source_model.sizes, &models.target_case);
            let mut note = |what, so| *seen.entry(what).or_default() += usize::from(so);
            note("same width", target.hidden == source.hidden);
            note("divisible", target.hidden > source.hidden && target.divides(source));
            note("indivisible", !target.divides(source));
            note("more heads", target.heads > source.heads);
            note("larger heads", target.head_dim > source.head_dim);
            note("more neurons", target.intermediate > source.intermediate);
            note("deeper", target.layers > source.layers);
            note("cancelling", target.cancel);
            note("placed", target.insert_after.is_some());
            let groups = (source.heads / source.kv_heads, target.heads / target.kv_heads);
            note("regrouped", groups.0 != groups.1);
            note("more experts", target.experts > source.experts.map(|count| count.all));
        }
        let every = ["same width", "divisible", "more heads", "more neurons"];
        let mut least: Vec<(&str, usize)> = every.into_iter().zip([20, 20, 50, 80]).collect();
        if !POST_NORM.contains(&architecture) {
            least.extend([("indivisible", 40), ("deeper", 50), ("placed", 20)]);
        }
        if !NORMS_BEHIND.contains(&architecture) {
            least.push(("cancelling", 2));
        }
        if GROUPED.contains(&architecture) {
            least.push(("regrouped", 20));
        }
        if architecture != Architecture::Qwen3 {
            least.push(("larger heads", 30));
        }
        if architecture == Architecture::Mixtral {
            least.push(("more experts", 50));
        }
        for (what, count) in least {
            assert!(seen[what] >= count, "{architecture:?} {what}: {seen:?}");
        }
    }
}

/// Where the norms of a model stand, and of which kind they are.
fn norms(model: &Model) -> String {
    let sublayers = || model.layers.iter().flatten();
    let kind = sublayers().flat_map(|s| &s.branches).find_map(|b| b.norm.as_ref().map(|n| n.kind));
    let behind = sublayers().any(|s| s.branches.iter().any(|b| b.post_norm.is_some()));
    let sums = sublayers().any(|sublayer| sublayer.post_norm.is_some());
    format!("{kind:?}, behind branches {behind}, of sums {sums}")
}

#[test]
fn every_kind_of_norm_meets_every_kind_of_width() {
    let mut seen: BTreeMap<(String, &str), usize> = BTreeMap::new();
    let mut rejected = 0;
    for architecture in Architecture::ALL {
        for seed in 0..cases_at_least(100) {
            // What is drawn is meant to be possible, always.
            let Ok(models) = Models::random(architecture, seed, |_| ()) else {
                rejected += 1;
                continue;
            };
            let (source, target) = (&models.source_model, &models.target_case);
            let width = match target.hidden {
                hidden if hidden == source.sizes.hidden => "same",
                _ if target.divides(&source.sizes) => "divisible",
                _ => "indivisible",
            };
            *seen.entry((norms(source), width)).or_default() += 1;
        }
    }
    assert_eq!(rejected, 0);
    for kind in [
        "Some(Layer), behind branches false, of sums false",
        "Some(Rms), behind branches false, of sums false",
        "Some(Rms), behind branches true, of sums false",
        "None, behind branches true, of sums false",
        "None, behind branches false, of sums true",
    ] {
        let widths: &[&str] = match kind {
            // Norms that write the stream allow whole multiples alone.
            kind if kind.starts_with("None") => &["same", "divisible"],
            _ => &["same", "divisible", "indivisible"],
        };
        for width in widths {
            let count = seen.get(&(kind.to_string(), *width)).copied().unwrap_or(0);
            assert!(count >= 5, "{kind}, {width} width: {count} times; {seen:?}");
        }
    }
}

fn length(input: &Input) -> usize {
    match input {
        Input::Tokens { ids, .. } => ids.len(),
        Input::Pair { decoder_ids, .. } => decoder_ids.len(),
        Input::Image { .. } => 0,
    }
}

#[test]
fn inputs_are_one_token_padded_complete_and_longer_than_windows() {
    let mut longer = 0;
    for architecture in Architecture::ALL {
        for seed in 0..cases_at_least(100) {
            let mut rng = generator(seed);
            let model = SourceCase::random(architecture, &mut rng).model().unwrap();
            let Expected::Tokens { positions, vocabulary, .. } = model.embedding.input else {
                continue;
            };
            let inputs = inputs::random(&model, &mut rng);
            let lengths = inputs.iter().map(length);
            assert!(lengths.clone().any(|length| length == 1), "{architecture:?} {seed}");
            let longest = lengths.max().unwrap();
            assert!(inputs.iter().all(|input| input.check(&model).is_ok()));
            let attentions = model.layers.iter().flatten().flat_map(|s| &s.branches);
            let windows = attentions.filter_map(|branch| match &branch.op {
                Op::Attention(attention) => attention.window.map(|window| window.size),
                _ => None,
            });
            if let Some(window) = windows.max() {
                assert!(longest > window || positions.is_some_and(|all| all <= window));
                longer += 1;
            }
            let covering = inputs::covering(&model, usize::MAX, &mut rng);
            let words: usize = covering.iter().map(length).sum();
            assert!(words >= vocabulary, "{architecture:?} {seed}");
            if let Some(positions) = positions {
                assert!(covering.iter().all(|input| length(input) == positions));
            }
        }
    }
    assert!(longer > 100, "{longer}");
}

use Architecture::{
    Bert, Distilbert, Gemma, Gemma2, Llama, Mistral, Mixtral, Olmo, Phi, Phi3, Qwen2, Qwen3,
    Roberta, Stablelm,
};

/// Families in which norms write the stream: they grow by whole factors and keep their depth.
const POST_NORM: &[Architecture] = &[Bert, Roberta, Distilbert];
/// Families in which new layers cannot end in fan-outs that cancel.
const NORMS_BEHIND: &[Architecture] = &[Bert, Roberta, Distilbert, Gemma2];
/// Families in which heads may share keys and values.
const GROUPED: &[Architecture] =
    &[Phi, Llama, Mistral, Qwen2, Qwen3, Gemma, Gemma2, Mixtral, Phi3, Stablelm, Olmo];

#[test]
fn a_target_reads_back_from_its_json() {
    let mut rng = generator(7);
    for architecture in Architecture::ALL {
        let source = SourceCase::random(architecture, &mut rng);
        let target = TargetCase::random(&source, &mut rng);
        let text = serde_json::to_string(&target).unwrap();
        assert_eq!(serde_json::from_str::<TargetCase>(&text).unwrap(), target);
    }
}

#[test]
fn expansions_in_f64_compute_what_the_source_computes() {
    for architecture in Architecture::ALL {
        for seed in 0..cases_at_least(100) {
            let models = Models::random(architecture, seed, |source| {
                source.dtype = Dtype::F64;
                source.weights = WeightStyle::Random;
            })
            .unwrap();
            let inputs = inputs::random(&models.source_model, &mut generator(seed));
            let one = run(&models.source, &models.source_model, &inputs);
            let other = run(&models.expanded, &models.expanded_model, &inputs);
            let apart = difference(&one, &other);
            let right = apart < 1e-9 || models.is_steep();
            assert!(right, "{architecture:?} {seed}: {apart:e}\n{}", models.replay());
        }
    }
}

#[test]
fn impossible_targets_are_refused() {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for architecture in Architecture::ALL {
        for seed in 0..cases_at_least(100) {
            let mut rng = generator(seed);
            let source = SourceCase::random(architecture, &mut rng);
            let (target, why) = TargetCase::impossible(&source, &mut rng);
            let Err(error) = Models::build(source.clone(), target.clone()) else {
                panic!("{architecture:?} {seed}: {why}, and yet {source:?} became {target:?}");
            };
            assert_eq!(error.class(), Class::Refused, "{why}: {error}");
            *seen.entry(why).or_default() += 1;
        }
    }
    assert!(seen.len() >= 8, "{seen:?}");
}

#[test]
fn a_failing_pair_shrinks_to_the_least_that_still_fails() {
    for architecture in Architecture::ALL {
        let mut rng = generator(5);
        let mut source = SourceCase::random(architecture, &mut rng);
        source.resize(|sizes| sizes.intermediate = sizes.intermediate.max(3)).unwrap();
        let mut target = TargetCase::random(&source, &mut rng);
        target.intermediate = 3 * source.model().unwrap().sizes.intermediate;
        // What fails here: at least three neurons that become at least five.
        let (source, target) = smallest((source, target), |(source, target)| {
            source.model().is_ok_and(|model| model.sizes.intermediate >= 3)
                && target.intermediate >= 5
                && Models::build(source.clone(), target.clone()).is_ok()
        });
        let sizes = source.model().unwrap().sizes;
        assert_eq!((sizes.intermediate, target.intermediate), (3, 5), "{architecture:?}");
        assert_eq!((sizes.heads, sizes.layers, target.layers), (1, 1, 1), "{architecture:?}");
        assert_eq!((target.hidden, target.heads), (sizes.hidden, 1), "{architecture:?}");
        // Rotary positions turn two channels at least.
        let tied = source.family().unwrap().fields.head_dim.is_none();
        let least = if sizes.head_dim == 2 && tied { 2 } else { 1 };
        assert_eq!(sizes.hidden, least, "{architecture:?}");
        assert_eq!((source.seed, target.seed, source.buffers.len()), (0, 0, 0));
    }
}
