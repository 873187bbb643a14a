//! Equations held in one pass over the weights against the same held by whole matrices: verdicts,
//! what is blamed, and what is said of an expansion must be the same.
//!
//! `LEMON_CASES` sets the number of random pairs per family (default 100).

use lemon_check::certify::{Certificate, Method, certify_by};
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::model::{Model, describe};
use lemon_check::testing::random::cases;
use lemon_check::testing::{Architecture, Models, Mutant, WeightStyle};

fn both(models: &Models, expanded: (&Checkpoint, &Model)) -> [Certificate; 2] {
    [Method::Streamed, Method::Whole].map(|method| {
        certify_by(method, (&models.source, &models.source_model), expanded, &|_, _| ()).unwrap()
    })
}

/// What must not depend on the method.
fn told(found: &Certificate) -> (bool, Vec<String>, Vec<String>) {
    let failures = found.failures.iter();
    let failures = failures.map(|f| format!("{} {} {} {:?}", f.place, f.rule, f.tensor, f.index));
    let unknown = found.unknown.iter().map(|u| format!("{} {}", u.subject, u.reason));
    (found.proves_lossless(), failures.collect(), unknown.collect())
}

/// Holds the pair both ways: see [`alike`].
fn assert_same(models: &Models, what: &str, expanded: (&Checkpoint, &Model)) -> bool {
    let [streamed, whole] = both(models, expanded);
    alike(models, what, (&streamed, &whole))
}

/// Whether the words for the kind of expansion are the same too: where rounding hardly tells units
/// apart, whole matrices may take two of the source's for one.
fn alike(models: &Models, what: &str, (streamed, whole): (&Certificate, &Certificate)) -> bool {
    assert_eq!(told(streamed), told(whole), "{what}: {}", models.replay());
    let words = |found: &Certificate| -> Vec<String> {
        found.maps.iter().map(|map| format!("{} {}", map.space, map.words)).collect()
    };
    words(streamed) == words(whole)
}

#[test]
fn right_expansions_are_proven_and_told_alike() {
    let (mut same, mut all, mut bounded, mut apart) = (0, 0, 0, 0);
    for architecture in Architecture::ALL {
        for seed in 0..cases(100).into() {
            let models = Models::random(architecture, seed, |_| ()).unwrap();
            let [streamed, whole] = both(&models, (&models.expanded, &models.expanded_model));
            let alike = alike(&models, "right", (&streamed, &whole));
            // Among repeated rows and zeros several words are right.
            if ![WeightStyle::Zeros, WeightStyle::Repeated].contains(&models.source_case.weights) {
                same += usize::from(alike);
                all += 1;
                // In f64 the residuals are those of sums in another order; of few channels others may
                // be copies as well.
                let few = models.source_model.sizes.hidden <= 2;
                if alike && !few && models.source_case.dtype != Dtype::F64 {
                    let [one, other] = [streamed.worst_units, whole.worst_units];
                    bounded += 1;
                    apart += usize::from((one - other).abs() > 1e-6 * (1.0 + other));
                }
            }
        }
    }
    assert!(bounded > 0 && apart * 200 <= bounded, "{apart} of {bounded} have other bounds");
    assert!(same * 100 >= all * 98, "{same} of {all} are told in the same words");
}

#[test]
fn a_model_and_itself_are_told_alike() {
    for architecture in Architecture::ALL {
        for seed in 0..u64::from(cases(100)) / 4 {
            let models = Models::random(architecture, seed, |_| ()).unwrap();
            assert_same(&models, "itself", (&models.source, &models.source_model));
        }
    }
}

#[test]
fn mistakes_are_found_and_blamed_alike() {
    let mut applied = 0;
    for architecture in Architecture::ALL {
        for seed in 0..u64::from(cases(100)).div_ceil(12) {
            let dtype = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16][seed as usize % 4];
            let models = Models::random(architecture, seed, |source| source.dtype = dtype).unwrap();
            for mutant in Mutant::ALL {
                let Some(mutated) = mutant.apply(&models.pair(), seed).unwrap() else { continue };
                let model = describe(&mutated.checkpoint).unwrap();
                assert_same(&models, mutant.name(), (&mutated.checkpoint, &model));
                applied += 1;
            }
        }
    }
    assert!(applied > 5 * cases(100), "only {applied} mutants");
}

/// Otherwise the tests above compare nothing.
#[test]
fn most_expansions_are_held_in_one_pass() {
    // Where all is held by whole matrices, sums are formed in the same order.
    let differs = |seed: u64| {
        let models = Models::random(Architecture::Llama, seed, |_| ()).unwrap();
        let [streamed, whole] = both(&models, (&models.expanded, &models.expanded_model));
        streamed.worst_units.to_bits() != whole.worst_units.to_bits()
            || streamed.resolution.to_bits() != whole.resolution.to_bits()
    };
    let held = (0..40).filter(|seed| differs(*seed)).count();
    assert!(held > 10, "{held} of 40");
}
