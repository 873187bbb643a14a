//! The two oracles against each other: what the certificate proves, the forward pass confirms; what
//! the forward pass refutes, the certificate does not prove, and it names the tensor.
//!
//! `LEMON_CASES` sets the number of random pairs per family (default 100; fewer for mistakes, which are
//! many for each pair).

use lemon_check::certify::{Certificate, certify};
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::forward::{Input, storage_noise};
use lemon_check::model::{Model, describe};
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::{Draw, cases, cases_at_least, generator};
use lemon_check::testing::{Architecture, Editor, Intent, Models, Mutant, WeightStyle, inputs};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use std::collections::BTreeMap;

fn certificate(models: &Models, expanded: (&Checkpoint, &Model)) -> Certificate {
    certify((&models.source, &models.source_model), expanded, &|_, _| ()).unwrap()
}

fn all_inputs(models: &Models, seed: u64) -> Vec<Input> {
    let mut rng = generator(seed);
    let mut all = inputs::random(&models.source_model, &mut rng);
    all.extend(inputs::covering(&models.source_model, 20, &mut rng));
    all
}

/// The first failure or unknown thing, and the case.
fn shown(found: &Certificate, models: &Models) -> String {
    let (failure, unknown) = (found.failures.first(), found.unknown.first());
    format!("{failure:?}\n{unknown:?}\n{}", models.replay())
}

/// Runs `property` on random seeds; a seed is a whole case, so there is nothing to shrink here.
fn for_each_seed(property: impl Fn(u64) -> std::result::Result<(), TestCaseError>) {
    let config = Config { cases: cases(100), failure_persistence: None, ..Config::default() };
    // The same cases every time: more of them are asked for by number, not by luck.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(config, rng);
    runner.run(&any::<u64>().no_shrink(), property).unwrap_or_else(|e| panic!("{e}"));
}

/// An expansion that is right is proven lossless, in every number format; and then the outputs of
/// f64 files agree to what rounding explains: 8 times what the rounding of the weights is measured
/// to do, and of the computation (which `storage_noise` of an f64 file is of the size of).
fn right_expansions_are_proven_and_agree(architecture: Architecture) {
    for_each_seed(|seed| {
        let models = Models::random(architecture, seed, |_| ()).unwrap();
        let found = certificate(&models, (&models.expanded, &models.expanded_model));
        prop_assert!(found.proves_lossless(), "seed {seed}: {}", shown(&found, &models));
        prop_assert!(found.worst_units <= 8.0);
        if models.source_case.dtype != Dtype::F64 || models.is_steep() {
            return Ok(());
        }
        let all = all_inputs(&models, seed);
        let one = run(&models.source, &models.source_model, &all);
        let other = run(&models.expanded, &models.expanded_model, &all);
        let noise = |checkpoint, model| {
            let noise = storage_noise(checkpoint, model, &all, 1.0, &[1, 2]).unwrap();
            noise.iter().map(|n| n.largest / n.scale).fold(0.0, f64::max)
        };
        let bound = 64.0 * f64::EPSILON
            + 8.0 * noise(&models.source, &models.source_model)
            + 8.0 * noise(&models.expanded, &models.expanded_model);
        let apart = difference(&one, &other);
        prop_assert!(apart <= bound, "{apart:e} > {bound:e}: seed {seed}\n{}", models.replay());
        Ok(())
    });
}

macro_rules! right {
    ($($architecture:ident, $test:ident;)*) => {
        $(#[test]
        fn $test() {
            right_expansions_are_proven_and_agree(Architecture::$architecture);
        })*

        #[test]
        fn every_family_has_a_test_of_right_expansions() {
            assert_eq!([$(Architecture::$architecture),*], Architecture::ALL);
        }
    };
}

right! {
    Gpt2, right_gpt2_expansions_are_proven_and_agree;
    GptNeox, right_gpt_neox_expansions_are_proven_and_agree;
    Opt, right_opt_expansions_are_proven_and_agree;
    Phi, right_phi_expansions_are_proven_and_agree;
    Llama, right_llama_expansions_are_proven_and_agree;
    Mistral, right_mistral_expansions_are_proven_and_agree;
    Qwen2, right_qwen2_expansions_are_proven_and_agree;
    Qwen3, right_qwen3_expansions_are_proven_and_agree;
    Gemma, right_gemma_expansions_are_proven_and_agree;
    Gemma2, right_gemma2_expansions_are_proven_and_agree;
    Mixtral, right_mixtral_expansions_are_proven_and_agree;
    Phi3, right_phi3_expansions_are_proven_and_agree;
    Stablelm, right_stablelm_expansions_are_proven_and_agree;
    Olmo, right_olmo_expansions_are_proven_and_agree;
    Bert, right_bert_expansions_are_proven_and_agree;
    BertPreNorm, right_bert_pre_norm_expansions_are_proven_and_agree;
    Roberta, right_roberta_expansions_are_proven_and_agree;
    Distilbert, right_distilbert_expansions_are_proven_and_agree;
    Vit, right_vit_expansions_are_proven_and_agree;
    Deit, right_deit_expansions_are_proven_and_agree;
    VitTimm, right_vit_timm_expansions_are_proven_and_agree;
    T5, right_t5_expansions_are_proven_and_agree;
    FreeForm, right_free_form_expansions_are_proven_and_agree;
}

#[test]
fn every_model_equals_itself() {
    for architecture in Architecture::ALL {
        for seed in 0..cases_at_least(40) {
            let models = Models::random(architecture, seed, |_| ()).unwrap();
            for (checkpoint, model) in
                [(&models.source, &models.source_model), (&models.expanded, &models.expanded_model)]
            {
                let both = (checkpoint, model);
                let found = certify(both, both, &|_, _| ()).unwrap();
                assert!(found.proves_lossless(), "seed {seed}: {}", shown(&found, &models));
            }
        }
    }
}

/// What the certificate made of one mutant over many pairs.
#[derive(Default, Debug)]
struct Count {
    /// Pairs in which the outputs changed.
    changed: usize,
    /// Of these, those in which what was changed is blamed: a tensor (one of several, where several
    /// were), or a field.
    named: usize,
    /// Those in which something else is blamed and rows are zeros, repeated or far apart in scale:
    /// chance may make another tensor the smaller change.
    degenerate: usize,
    /// Another in which something else is blamed.
    other: Option<String>,
    /// Pairs in which a field was changed, and that is not what is blamed: another activation, or
    /// other heads, are no equation that could fail.
    fields: usize,
    /// Pairs in which no output changed.
    equal: usize,
    /// Of these, those that are proven lossless.
    proven: usize,
}

/// Changes of outputs below this, relative to their spread, are not told from rounding in f64.
const VISIBLE: f64 = 1e-10;

/// Whether the bytes of this tensor differ.
fn is_changed(before: &Checkpoint, after: &Checkpoint, tensor: &str) -> bool {
    let [before, after] = [before, after].map(|checkpoint| checkpoint.tensors().get(tensor));
    before.zip(after).is_some_and(|(before, after)| before.bytes() != after.bytes())
}

fn judge_mutants(
    architecture: Architecture,
    seeds: u64,
    intents: &[Intent],
    counts: &mut BTreeMap<Mutant, Count>,
) {
    for seed in 0..seeds {
        let models =
            Models::random(architecture, seed, |source| source.dtype = Dtype::F64).unwrap();
        if models.is_steep() {
            continue;
        }
        let all = all_inputs(&models, seed);
        let right = run(&models.expanded, &models.expanded_model, &all);
        for mutant in Mutant::ALL.iter().filter(|mutant| intents.contains(&mutant.intent())) {
            let Some(mutated) = mutant.apply(&models.pair(), seed).unwrap() else { continue };
            let model = describe(&mutated.checkpoint).unwrap();
            let apart = difference(&right, &run(&mutated.checkpoint, &model, &all));
            let found = certificate(&models, (&mutated.checkpoint, &model));
            let count = counts.entry(*mutant).or_default();
            if apart > VISIBLE {
                assert!(
                    !found.proves_lossless(),
                    "{} in {} makes a difference of {apart:e} and is missed: {}",
                    mutant.name(),
                    mutated.subject,
                    models.replay()
                );
                count.changed += 1;
                let blamed = found.failures.first().map_or("", |failure| &failure.tensor);
                let is_named = blamed == mutated.subject
                    || is_changed(&models.expanded, &mutated.checkpoint, blamed);
                count.named += usize::from(is_named);
                if !is_named && DEGENERATE.contains(&models.source_case.weights) {
                    count.degenerate += 1;
                } else if !is_named {
                    count.other = Some(format!("{}: {}", mutated.subject, shown(&found, &models)));
                }
                count.fields += usize::from(!is_named && !mutated.checkpoint.has(&mutated.subject));
            } else {
                count.equal += 1;
                count.proven += usize::from(found.proves_lossless());
            }
        }
    }
}

const DEGENERATE: [WeightStyle; 3] =
    [WeightStyle::Zeros, WeightStyle::Repeated, WeightStyle::Scales];

/// Families whose branches are attention and MLPs one after the other, with nothing behind them. In
/// others a mistake may have several names: a norm behind a branch turns a wrong scale into a wrong
/// ε, and copies of an expert are only held to what they write together.
const PLAIN: [Architecture; 5] = [
    Architecture::Gpt2,
    Architecture::Bert,
    Architecture::Llama,
    Architecture::Vit,
    Architecture::VitTimm,
];

#[test]
fn no_mistake_is_proven_lossless_and_the_tensor_is_named() {
    let mut counts = BTreeMap::new();
    for architecture in PLAIN {
        judge_mutants(architecture, cases_at_least(60), &[Intent::Mistake], &mut counts);
    }
    for (mutant, count) in &counts {
        let Count { changed, named, fields, equal, proven, .. } = count;
        println!("{:32} {named} + {fields} of {changed}, {proven} of {equal}", mutant.name());
    }
    // Each of these is blamed on its own tensor whenever it changes an output, but for degenerate
    // weights.
    let always_named = [
        Mutant::EpsKept,
        Mutant::TokensZeroExpanded,
        Mutant::PositionsZeroExpanded,
        Mutant::TiedForgotten,
        Mutant::TiedForgottenInBeta,
        Mutant::FanOutSumOff,
        Mutant::HeadsPlainCircular,
        Mutant::PositionRowOverwritten,
        Mutant::TokenRowOverwritten,
        Mutant::QueryKeySwapped,
        Mutant::InsertedBias,
        Mutant::EtaForgotten,
        Mutant::EtaInverted,
        Mutant::BiasNotExpanded,
        Mutant::BiasSplit,
        Mutant::BetaOnResidue,
        Mutant::LogitScaleForgotten,
    ];
    for mutant in always_named {
        let count = &counts[&mutant];
        assert!(count.changed > 0, "{} never changed an output", mutant.name());
        let Count { named, changed, degenerate, other, .. } = count;
        assert_eq!(named + degenerate, *changed, "{}: {other:?}", mutant.name());
        assert!(10 * degenerate <= *changed, "{}: {degenerate} of {changed}", mutant.name());
    }
    most_are_named(&counts, 0.95);
}

#[test]
fn no_mistake_in_any_other_family_is_proven_lossless() {
    let mut counts = BTreeMap::new();
    for architecture in Architecture::ALL.into_iter().filter(|a| !PLAIN.contains(a)) {
        judge_mutants(architecture, cases_at_least(24), &[Intent::Mistake], &mut counts);
    }
    for (mutant, count) in &counts {
        let Count { changed, named, fields, equal, proven, .. } = count;
        println!("{:32} {named} + {fields} of {changed}, {proven} of {equal}", mutant.name());
    }
    most_are_named(&counts, 0.9);
}

fn most_are_named(counts: &BTreeMap<Mutant, Count>, share: f64) {
    let mistakes = counts.iter().filter(|(mutant, _)| mutant.intent() == Intent::Mistake);
    let (named, changed) = mistakes
        .fold((0, 0), |(n, c), (_, count)| (n + count.named, c + count.changed - count.fields));
    let enough = named as f64 >= share * changed as f64;
    assert!(enough, "{named} of {changed} mistakes are blamed rightly");
}

/// Where heads turn at frequencies that the source lacks, only some channels correspond.
#[test]
fn other_rotary_frequencies_are_never_proven() {
    let (mut caught, mut named) = (0, 0);
    for seed in 0..cases_at_least(40) {
        let models = Models::random(Architecture::Llama, seed, |_| ()).unwrap();
        let config = models.expanded.config();
        let parameters = config.section("rope_parameters").unwrap();
        let theta = parameters.as_ref().unwrap_or(config).positive_or("rope_theta", 1e4).unwrap();
        let mut editor = Editor::new(&models.expanded, &models.expanded_model);
        editor.config().remove("rope_parameters");
        editor.config().remove("rope_scaling");
        editor.config().set("rope_theta", 7.0 * theta);
        let changed = editor.finish();
        let model = describe(&changed).unwrap();
        let all = all_inputs(&models, seed);
        let right = run(&models.expanded, &models.expanded_model, &all);
        if difference(&right, &run(&changed, &model, &all)) > 1e-3 {
            caught += 1;
            let found = certificate(&models, (&changed, &model));
            assert!(!found.proves_lossless(), "seed {seed}: {}", shown(&found, &models));
            let config = models.expanded.config();
            if config.get("rope_scaling").is_none() && config.get("rope_parameters").is_none() {
                let first = &found.failures[0];
                assert_eq!(first.tensor, "rope_theta", "{}", shown(&found, &models));
                assert_eq!(first.expected, theta, "{}", shown(&found, &models));
                named += 1;
            }
        }
    }
    assert!(caught > 5 && named > 0, "{caught} changes were visible, {named} were named");
}

/// How many tensors of a model are given an error of scale, one at a time.
const TENSORS: usize = 6;

/// A factor that hides in the rounding of every single number does not hide in all of them: the
/// resolution that the certificate claims is the one it has.
#[test]
fn a_common_error_of_scale_above_the_resolution_is_never_proven() {
    let mut caught = 0;
    for architecture in Architecture::ALL {
        for seed in 0..cases_at_least(30) {
            let models = Models::random(architecture, seed, |source| {
                source.dtype = Dtype::Bf16;
            })
            .unwrap();
            let right = certificate(&models, (&models.expanded, &models.expanded_model));
            // Where there are few numbers, there is little resolution.
            if models.is_steep() || right.resolution > 0.1 {
                continue;
            }
            let all = all_inputs(&models, seed);
            let outputs = run(&models.expanded, &models.expanded_model, &all);
            // Some of its tensors: more models show more than more tensors of each.
            let lenses = models.expanded_model.lenses();
            let mut rng = generator(seed);
            for _ in 0..TENSORS {
                let lens = rng.pick(&lenses);
                let mut editor = Editor::new(&models.expanded, &models.expanded_model);
                let factor = 1.0 + 4.0 * right.resolution;
                editor.edit(lens, |matrix| *matrix *= factor).unwrap();
                let changed = editor.finish();
                let model = describe(&changed).unwrap();
                let apart = difference(&outputs, &run(&changed, &model, &all));
                let found = certificate(&models, (&changed, &model));
                // The biases of attention are but a small part of what they are added to.
                if apart > right.resolution && lens.cols() > 1 {
                    caught += 1;
                    // A layer that cancels does so at any scale, but for rounding, which its large
                    // weights may make as large.
                    let rounding = || {
                        let noise = storage_noise(&changed, &model, &all, 8.0, &[1, 2, 3]).unwrap();
                        noise.iter().map(|n| n.largest / n.scale).fold(0.0, f64::max)
                    };
                    assert!(
                        !found.proves_lossless() || apart <= rounding(),
                        "{} times {factor} in {} makes a difference of {apart:e} and is missed: {}",
                        models.replay(),
                        lens.name(),
                        found.resolution
                    );
                }
            }
        }
    }
    assert!(caught > 50, "only {caught} changes were visible");
}

#[test]
fn equivalent_changes_are_proven_lossless() {
    let mut counts = BTreeMap::new();
    for architecture in Architecture::ALL {
        judge_mutants(architecture, cases_at_least(40), &[Intent::Equivalent], &mut counts);
    }
    for mutant in Mutant::ALL.iter().filter(|m| m.intent() == Intent::Equivalent) {
        let Some(count) = counts.get(mutant) else { panic!("{} never applied", mutant.name()) };
        assert_eq!(count.changed, 0, "{}", mutant.name());
        // A map cannot be read off tables of two or three rows from which a constant was taken,
        // nor a direction off one number: those few are undecided.
        let tenths = if *mutant == Mutant::TablesShifted { 8 } else { 9 };
        assert!(count.proven * 10 >= count.equal * tenths, "{}: {count:?}", mutant.name());
    }
}
