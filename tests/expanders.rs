//! Expansion code from outside, held to the proof: what is right passes, and what is wrong is found
//! and made small.

use lemon_check::checkpoint::Checkpoint;
use lemon_check::expand::expand;
use lemon_check::model::describe;
use lemon_check::testing::{Architecture, Fault, Mutant, Pair, TargetCase, Trials, check_expander};
use lemon_check::{Error, Result, assert_lossless};

fn trials(families: &[Architecture]) -> Trials {
    Trials { families: families.to_vec(), cases: 100, seed: 0 }
}

fn right(source: &Checkpoint, target: &TargetCase) -> Result<Checkpoint> {
    expand(source, &describe(source)?, &target.options())
}

/// Expansion code that makes one mistake wherever it can.
fn with(mutant: Mutant) -> impl Fn(&Checkpoint, &TargetCase) -> Result<Option<Checkpoint>> {
    move |source, target| {
        let expanded = right(source, target)?;
        let (source_model, expanded_model) = (describe(source)?, describe(&expanded)?);
        let pair = Pair {
            source,
            source_model: &source_model,
            expanded: &expanded,
            expanded_model: &expanded_model,
        };
        let mutated = mutant.apply(&pair, 0)?;
        Ok(Some(mutated.map_or(expanded, |mutated| mutated.checkpoint)))
    }
}

#[test]
fn right_code_passes_on_every_family() {
    let all = Trials { cases: 2 * Architecture::ALL.len() as u64, ..Trials::new() };
    let tried = all.run(|source, target| right(source, target).map(Some)).unwrap();
    assert_eq!((tried.lossless + tried.unchanged, tried.unsupported), (all.cases, 0));
    assert!(tried.lossless > tried.unchanged, "{tried}");
}

#[test]
fn a_forgotten_eta_is_found_in_one_layer_and_the_smallest_growth() {
    let found = trials(&[Architecture::Llama]).run(with(Mutant::EtaForgotten)).unwrap_err();
    assert_eq!(found.fault, Fault::NotLossless);
    let sizes = found.source.model().unwrap().sizes;
    assert_eq!((sizes.layers, sizes.heads, sizes.kv_heads, sizes.intermediate), (1, 1, 1, 1));
    assert!(sizes.hidden <= 2, "{found}");
    // At whole multiples eta is one.
    assert_eq!(found.target.hidden, sizes.hidden + 1, "{found}");
    assert_eq!(found.target.layers, 1, "{found}");
    assert!(found.report.contains("eta is missing"), "{found}");
}

#[test]
fn heads_in_plain_circular_order_are_found_with_two_groups() {
    let found = trials(&[Architecture::Llama]).run(with(Mutant::HeadsPlainCircular)).unwrap_err();
    let sizes = found.source.model().unwrap().sizes;
    // With one key/value head every order is right.
    assert_eq!((sizes.layers, sizes.kv_heads), (1, 2), "{found}");
    assert!(sizes.heads <= 4 && sizes.hidden <= 2, "{found}");
}

#[test]
fn a_bias_that_is_not_expanded_is_found_in_one_layer() {
    let found = trials(&[Architecture::Gpt2]).run(with(Mutant::BiasNotExpanded)).unwrap_err();
    let sizes = found.source.model().unwrap().sizes;
    assert_eq!((sizes.layers, found.target.layers), (1, 1), "{found}");
    assert!(sizes.hidden <= 2 && sizes.intermediate <= 2, "{found}");
}

#[test]
fn returning_the_source_is_no_expansion() {
    let copy = |source: &Checkpoint, _: &TargetCase| {
        let (config, tensors) = (source.config().clone(), source.tensors().clone());
        Ok(Some(Checkpoint::in_memory("copy", config, tensors)))
    };
    let found = trials(&[Architecture::Vit]).run(copy).unwrap_err();
    assert_eq!(found.fault, Fault::OtherSizes);
    assert!(found.report.contains("the target asks for"), "{found}");
}

#[test]
fn an_error_is_a_failure_and_kept() {
    let fails = |_: &Checkpoint, target: &TargetCase| match target.intermediate > 4 {
        true => Err(Error::bad_input("out of memory")),
        false => Ok(None),
    };
    let found = trials(&[Architecture::Gpt2]).run(fails).unwrap_err();
    assert_eq!((found.fault, found.target.intermediate), (Fault::Error, 5), "{found}");
    assert!(found.report.contains("out of memory"), "{found}");
}

#[test]
#[should_panic(expected = "too little was checked: 0 lossless")]
fn code_that_supports_nothing_is_not_passed() {
    check_expander(|_, _| Ok(None));
}

/// Targets with more neurons, and nothing else.
fn only_wider(source: &Checkpoint, target: &TargetCase) -> bool {
    let model = describe(source).unwrap();
    let (old, new) = (model.sizes, target);
    (old.hidden, old.heads, old.layers) == (new.hidden, new.heads, new.layers)
        && (old.kv_heads, old.head_dim) == (new.kv_heads, new.head_dim)
        && old.intermediate < new.intermediate
}

#[test]
#[should_panic(expected = "the expansion fails (NotLossless)")]
fn code_that_supports_few_targets_is_tried_on_as_many() {
    let wrong = with(Mutant::FanOutNotSplit);
    let families = ["gpt2", "llama"];
    check_expander(|source, target| {
        let family = describe(source)?.family.name;
        match families.contains(&family) && only_wider(source, target) {
            true => wrong(source, target),
            false => Ok(None),
        }
    });
}

#[test]
fn a_panic_is_a_failure_and_made_small() {
    let panics = |source: &Checkpoint, target: &TargetCase| {
        assert!(target.layers < 3, "no layer {}", target.layers);
        right(source, target).map(Some)
    };
    let found = trials(&[Architecture::Gpt2]).run(panics).unwrap_err();
    assert_eq!((found.fault, found.target.layers), (Fault::Panic, 3), "{found}");
    assert!(found.report.contains("no layer 3"), "{found}");
    assert_eq!(format!("{found:?}"), found.to_string());
}

#[test]
fn a_failure_of_a_model_in_memory_names_no_command() {
    let found = trials(&[Architecture::Llama]).run(with(Mutant::FanOutNotSplit)).unwrap_err();
    assert!(found.report.contains("witness") && !found.report.contains("replay"), "{found}");
}

#[test]
fn a_right_pair_in_memory_is_asserted() {
    let source = Checkpoint::open("tests/data/source.safetensors".as_ref(), None).unwrap();
    assert_lossless!(source, "tests/data/expanded.safetensors");
}

#[test]
#[should_panic(expected = "eta is missing")]
fn a_wrong_pair_panics_with_the_report() {
    assert_lossless!("tests/data/source.safetensors", "tests/data/broken.safetensors");
}
