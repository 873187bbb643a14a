//! The two oracles against each other: what the certificate proves, the forward pass confirms; what
//! the forward pass refutes, the certificate does not prove.

mod common;

use common::{Models, difference, run};
use lemon_check::certify::{Certificate, certify};
use lemon_check::checkpoint::Dtype;
use lemon_check::model::describe;
use lemon_check::testing::random::generator;
use lemon_check::testing::{Architecture, Intent, Mutant, inputs};

fn certificate(models: &Models) -> Certificate {
    let source = (&models.source, &models.source_model);
    certify(source, (&models.expanded, &models.expanded_model), &|_, _| ()).unwrap()
}

#[test]
fn survey() {
    for architecture in Architecture::ALL {
        let (mut right, mut wrong) = (0, 0);
        for seed in 0..1500 {
            let models = Models::random(architecture, seed, |_| ()).unwrap();
            let found = certificate(&models);
            if found.proves_lossless() {
                right += 1;
            } else {
                wrong += 1;
                if wrong < 6 {
                    println!("{}", models.replay());
                    for f in found.failures.iter().take(2) {
                        println!("  {f:?}");
                    }
                    for f in found.unknown.iter().take(2) {
                        println!("  {f:?}");
                    }
                }
            }
        }
        println!("{architecture:?}: lossless {right}, not {wrong}");
    }
}

#[derive(Default, Debug)]
struct Count {
    applied: usize,
    changed: usize,
    missed: usize,
    equivalent: usize,
    alarms: usize,
    named: usize,
}

#[test]
fn mutants() {
    let mut counts: std::collections::BTreeMap<Mutant, Count> = Default::default();
    for architecture in Architecture::ALL {
        for seed in 0..60 {
            let models = Models::random(architecture, seed, |source| {
                source.dtype = Dtype::F64;
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
                let source = (&models.source, &models.source_model);
                let found = certify(source, (&mutated.checkpoint, &model), &|_, _| ()).unwrap();
                let count = counts.entry(*mutant).or_default();
                count.applied += 1;
                let changed = apart > 1e-10;
                if changed {
                    count.changed += 1;
                    count.missed += usize::from(found.proves_lossless());
                    let named = found.failures.first().is_some_and(|f| f.tensor == mutated.subject);
                    count.named += usize::from(named);
                    if found.proves_lossless() {
                        println!(
                            "MISSED {} {apart:e} {} {}",
                            mutant.name(),
                            mutated.subject,
                            models.replay()
                        );
                    } else if !named {
                        println!(
                            "UNNAMED {} {apart:e} {} {:?} {:?}\n   {}",
                            mutant.name(),
                            mutated.subject,
                            found
                                .failures
                                .first()
                                .map(|f| (&f.tensor, &f.place, &f.index, f.units, &f.cause)),
                            found.unknown.first(),
                            models.replay().replace('\n', "\n   ")
                        );
                    }
                } else {
                    count.equivalent += 1;
                    count.alarms += usize::from(!found.proves_lossless());
                    if !found.proves_lossless() {
                        println!(
                            "ALARM {} {apart:e} {} {:?} {:?}\n   {}",
                            mutant.name(),
                            mutated.subject,
                            found
                                .failures
                                .first()
                                .map(|f| (&f.tensor, &f.place, &f.index, f.units, &f.cause)),
                            found.unknown.first(),
                            models.replay().replace('\n', "\n   ")
                        );
                    }
                }
            }
        }
    }
    for (mutant, count) in &counts {
        println!("TOTAL {:32} {count:?}", mutant.name());
    }
}
