//! What the changes of the catalogue truly do, found by running the models.

mod common;

use common::{Models, difference, run};
use lemon_check::checkpoint::Dtype;
use lemon_check::model::describe;
use lemon_check::testing::random::generator;
use lemon_check::testing::{Architecture, Intent, Mutant, WeightStyle, inputs};
use std::collections::BTreeMap;

/// How often a change was applied, how often it was seen, and the largest difference it made.
#[derive(Default, Debug)]
struct Count {
    applied: usize,
    seen: usize,
    largest: f64,
}

/// Below this, relative to the spread of the outputs, two f64 runs agree.
const AGREE: f64 = 1e-9;

fn survey() -> BTreeMap<Mutant, Count> {
    let mut counts: BTreeMap<Mutant, Count> = BTreeMap::new();
    for architecture in Architecture::ALL {
        // More where a mutant needs a rare setting: LayerScale, several experts, the layer's index.
        let rare = [Architecture::VitTimm, Architecture::Mixtral, Architecture::Gpt2];
        for seed in 0..if rare.contains(&architecture) { 60 } else { 20 } {
            let models = Models::random(architecture, seed, |source| {
                source.dtype = Dtype::F64;
                source.weights = WeightStyle::Random;
                let least = |eps: f64| eps.max(1e-6);
                source.resize(|sizes| sizes.norm_eps = sizes.norm_eps.map(least)).unwrap();
            })
            .unwrap();
            if models.is_steep() {
                continue;
            }
            let mut rng = generator(seed);
            let mut all = inputs::random(&models.source_model, &mut rng);
            all.extend(inputs::covering(&models.source_model, 20, &mut rng));
            let right = run(&models.expanded, &models.expanded_model, &all);
            for mutant in Mutant::ALL {
                let Some(mutated) = mutant.apply(&models.pair(), seed).unwrap() else { continue };
                let model = describe(&mutated.checkpoint).unwrap();
                let apart = difference(&right, &run(&mutated.checkpoint, &model, &all));
                let count = counts.entry(*mutant).or_default();
                count.applied += 1;
                count.seen += usize::from(apart > AGREE);
                count.largest = count.largest.max(apart);
                assert!(
                    mutant.intent() == Intent::Mistake || apart < AGREE,
                    "{} makes a difference of {apart:e} ({architecture:?} {seed}, {})\n{}",
                    mutant.name(),
                    mutated.subject,
                    models.replay()
                );
            }
        }
    }
    counts
}

#[test]
fn mistakes_change_outputs_and_equivalent_changes_do_not() {
    let counts = survey();
    for mutant in Mutant::ALL {
        let Some(count) = counts.get(mutant) else { panic!("{} never applied", mutant.name()) };
        println!(
            "{:32} applied {:4}, seen {:4}, largest {:.1e}",
            mutant.name(),
            count.applied,
            count.seen,
            count.largest
        );
    }
    for (mutant, count) in &counts {
        // Of a mistake in a setting that few models have, too few are drawn to count; the tests of
        // its equation plant it where it shows.
        let wanted = match mutant.intent() {
            Intent::Mistake if count.applied >= 10 => count.applied.div_ceil(2),
            _ => 0,
        };
        assert!(count.seen >= wanted, "{} seen {count:?}", mutant.name());
    }
}

#[test]
fn the_same_seed_makes_the_same_change() {
    let models = Models::random(Architecture::Gpt2, 3, |_| ()).unwrap();
    for mutant in Mutant::ALL {
        let make = || mutant.apply(&models.pair(), 11).unwrap();
        let (Some(one), Some(two)) = (make(), make()) else { continue };
        assert_eq!(one.subject, two.subject);
        for (name, tensor) in one.checkpoint.tensors() {
            assert_eq!(tensor.bytes(), two.checkpoint.tensor(name).unwrap().bytes());
        }
    }
}
