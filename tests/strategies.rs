//! Cases for other people's property tests: legal ones, that shrink to the smallest.

use lemon_check::certify::certify;
use lemon_check::forward::Input;
use lemon_check::model::describe;
use lemon_check::testing::arbitrary::{
    Case, Run, Smaller, cases_of, inputs_of, runs_of, targets_of,
};
use lemon_check::testing::models::run;
use lemon_check::testing::random::cases;
use lemon_check::testing::shrink::smallest;
use lemon_check::testing::{Architecture, FreeParts, Mutant, WeightStyle};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use quickcheck::{Arbitrary as _, Gen, QuickCheck};

fn runner(count: u32) -> TestRunner {
    let config = Config {
        cases: count,
        max_shrink_iters: 10_000,
        failure_persistence: None,
        ..Config::default()
    };
    TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

/// Whether an expansion with a norm that lacks eta is refuted.
fn lacks_eta(case: &Case) -> bool {
    let models = case.models().unwrap();
    let mutated = Mutant::EtaForgotten.apply(&models.pair(), 0).unwrap();
    mutated.is_some_and(|mutated| {
        let model = describe(&mutated.checkpoint).unwrap();
        let source = (&models.source, &models.source_model);
        let found = certify(source, (&mutated.checkpoint, &model), &|_, _| ()).unwrap();
        !found.proves_lossless()
    })
}

#[test]
fn every_case_that_is_drawn_can_be_built_and_run() {
    let drawn = runner(cases(100)).run(&any::<Run>(), |drawn| {
        let models = drawn.case.models().unwrap();
        run(&models.source, &models.source_model, std::slice::from_ref(&drawn.input));
        run(&models.expanded, &models.expanded_model, &[drawn.input]);
        Ok(())
    });
    drawn.unwrap();
}

#[test]
fn proptest_shrinks_to_one_layer_and_the_smallest_growth() {
    let found = runner(100).run(&cases_of([Architecture::Llama]), |case| match lacks_eta(&case) {
        true => Err(TestCaseError::fail("eta")),
        false => Ok(()),
    });
    let Err(TestError::Fail(_, case)) = found else { panic!("not found: {found:?}") };
    assert!(lacks_eta(&case), "{case:?}");
    let sizes = case.source.model().unwrap().sizes;
    assert_eq!((sizes.layers, sizes.heads, sizes.intermediate), (1, 1, 1), "{case:?}");
    assert_eq!(case.target.hidden, sizes.hidden + 1, "{case:?}");
    // One way to shrink: what proptest reached is where the library's own search stays.
    let pair = (case.source.clone(), case.target.clone());
    let fails = |pair: &(_, _)| {
        let (source, target) = pair.clone();
        let case = Case { source, target };
        case.models().is_ok() && lacks_eta(&case)
    };
    assert_eq!(smallest(pair.clone(), fails), pair);
}

#[test]
fn quickcheck_draws_every_family_and_shrinks() {
    let mut from = Gen::new(10);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..300 {
        let case = <Case as quickcheck::Arbitrary>::arbitrary(&mut from);
        seen.insert(case.source.architecture);
    }
    assert_eq!(seen.len(), Architecture::ALL.len());
    let mut case = <Case as quickcheck::Arbitrary>::arbitrary(&mut from);
    while let Some(smaller) = case.shrink().next() {
        case = smaller;
    }
    let sizes = case.source.model().unwrap().sizes;
    assert_eq!((sizes.layers, case.target.layers), (1, 1), "{case:?}");
}

#[test]
fn an_input_shrinks_to_one_token() {
    let strategy = runs_of([Architecture::Gpt2]);
    let found = runner(20).run(&strategy, |_| Err(TestCaseError::fail("always")));
    let Err(TestError::Fail(_, Run { case, input })) = found else { panic!("{found:?}") };
    assert_eq!(input, Input::tokens([0]));
    assert_eq!(case.source.model().unwrap().sizes.hidden, 1);
}

#[test]
fn targets_and_inputs_of_one_source() {
    let case = Case::random(&[Architecture::Bert], 3);
    let model = case.source.model().unwrap();
    let strategy = (targets_of(&case.source), inputs_of(&model));
    let drawn = runner(cases(40)).run(&strategy, |(target, input)| {
        let models = Case { source: case.source.clone(), target }.models().unwrap();
        run(&models.expanded, &models.expanded_model, &[input]);
        Ok(())
    });
    drawn.unwrap();
    let failing = runner(1).run(&strategy, |_| Err(TestCaseError::fail("always")));
    let Err(TestError::Fail(_, (target, input))) = failing else { panic!("{failing:?}") };
    assert_eq!((target.hidden, target.layers), (model.sizes.hidden, model.sizes.layers));
    assert!(input.smaller().next().is_none(), "{input:?}");
}

#[test]
fn styles_and_free_parts_are_drawn() {
    fn known(style: WeightStyle, free: FreeParts, family: Architecture) -> bool {
        WeightStyle::ALL.contains(&style)
            && FreeParts::ALL.contains(&free)
            && Architecture::ALL.contains(&family)
    }
    QuickCheck::new().quickcheck(known as fn(WeightStyle, FreeParts, Architecture) -> bool);
}
