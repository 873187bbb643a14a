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
