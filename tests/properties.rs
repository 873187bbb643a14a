//! What must be true of any expansion, on random models of every family.
//!
//! `LEMON_CASES` sets the number of random models of each property (default 150).

use lemon_check::certify::certify;
use lemon_check::checkpoint::{Checkpoint, Dtype, SHARD_LIMIT, save};
use lemon_check::expand::{Free, expand};
use lemon_check::model::{Model, describe};
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::{cases, generator};
use lemon_check::testing::{Architecture, FreeParts, Models, SourceCase, TargetCase, inputs};
use std::cell::Cell;

/// Holds `property` to random cases of every family in turn.
fn hold(property: impl Fn(Architecture, u64)) {
    for (seed, architecture) in (0..cases(150).into()).zip(Architecture::ALL.iter().cycle()) {
        property(*architecture, seed);
    }
}

fn assert_proven(
    source: (&Checkpoint, &Model),
    expanded: (&Checkpoint, &Model),
    shown: impl Fn() -> String,
) {
    let found = certify(source, expanded, &|_, _| ()).unwrap();
    let first = (found.failures.first(), found.unknown.first());
    assert!(found.proves_lossless(), "{first:?}: {}", shown());
}

fn same_bytes(one: &Checkpoint, other: &Checkpoint) -> bool {
    one.tensors().iter().all(|(name, tensor)| {
        other.tensor(name).is_ok_and(|t| t.bytes() == tensor.bytes() && t.shape == tensor.shape)
    })
}

#[test]
fn an_expansion_to_the_same_sizes_is_the_same_model() {
    hold(|architecture, seed| {
        let source = SourceCase::random(architecture, &mut generator(seed));
        let sizes = source.model().unwrap().sizes;
        let free = [FreeParts::Projection, FreeParts::Equal, FreeParts::Zero][seed as usize % 3];
        let target = TargetCase::unchanged(&sizes, free, seed);
        let models = Models::build(source, target).unwrap();
        assert_eq!(models.expanded_model.sizes, sizes, "{}", models.replay());
        assert!(same_bytes(&models.expanded, &models.source), "{}", models.replay());
    });
}

#[test]
fn two_expansions_one_after_the_other_are_one_expansion() {
    let (twice, refused) = (Cell::new(0), Cell::new(0));
    hold(|architecture, seed| {
        let models = Models::random(architecture, seed, |_| ()).unwrap();
        if models.is_steep() {
            return;
        }
        let mut middle = models.source_case.clone();
        let sizes = models.expanded_model.sizes.clone();
        if middle.resize(|all| *all = sizes).is_err() || middle.model().is_err() {
            refused.set(refused.get() + 1);
            return;
        }
        let mut target = TargetCase::random(&middle, &mut generator(seed + 1));
        let experts = |model: &Model| model.sizes.experts.map(|count| count.all);
        if experts(&models.expanded_model) != experts(&models.source_model) {
            // Unequal copies of an expert are experts that the router cannot tell apart: what more
            // copies of them do is undecided.
            target.experts = experts(&models.expanded_model);
        }
        let first = (&models.expanded, &models.expanded_model);
        let Ok(second) = expand(first.0, first.1, &target.options()) else {
            refused.set(refused.get() + 1);
            return;
        };
        let model = describe(&second).unwrap();
        let shown = || format!("{}\n{}", models.replay(), serde_json::to_string(&target).unwrap());
        let source = (&models.source, &models.source_model);
        assert_proven(first, (&second, &model), shown);
        assert_proven(source, (&second, &model), shown);
        twice.set(twice.get() + 1);
    });
    assert!(refused.get() * 20 <= twice.get(), "{} refused of {}", refused.get(), twice.get());
}

#[test]
fn an_expansion_survives_its_file() {
    let folder = tempfile::tempdir().unwrap();
    hold(|architecture, seed| {
        let models = Models::random(architecture, seed, |_| ()).unwrap();
        let file = folder.path().join("model.safetensors");
        let (config, tensors) = (models.expanded.config(), models.expanded.tensors());
        save(&file, config, tensors, SHARD_LIMIT).unwrap();
        let again = Checkpoint::open(&file, None).unwrap();
        assert_eq!(again.config().json(), config.json(), "{}", models.replay());
        assert!(same_bytes(&again, &models.expanded), "{}", models.replay());
    });
}

#[test]
fn stored_numbers_survive_being_read_and_written() {
    hold(|architecture, seed| {
        let models = Models::random(architecture, seed, |_| ()).unwrap();
        for (name, tensor) in models.expanded.tensors() {
            let Some(dtype) = tensor.dtype else { continue };
            let mut again = Vec::new();
            for index in 0..tensor.len() {
                dtype.put(&mut again, dtype.get(tensor.bytes(), index));
            }
            assert_eq!(again, tensor.bytes(), "{name}: {}", models.replay());
        }
    });
}

#[test]
fn what_the_source_computes_does_not_depend_on_what_is_free() {
    hold(|architecture, seed| {
        let in_f64 = |case: &mut SourceCase| case.dtype = Dtype::F64;
        let models = Models::random(architecture, seed, in_f64).unwrap();
        if models.is_steep() {
            return;
        }
        let mut options = models.target_case.options();
        options.free = Free::Zero;
        options.seed += 1;
        let other = expand(&models.source, &models.source_model, &options).unwrap();
        let model = describe(&other).unwrap();
        let inputs = inputs::random(&models.source_model, &mut generator(seed));
        let one = run(&models.source, &models.source_model, &inputs);
        let two = run(&other, &model, &inputs);
        let apart = difference(&one, &two);
        assert!(apart < 1e-9, "{apart:e}: {}", models.replay());
    });
}
