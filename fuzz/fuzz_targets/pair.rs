//! A random model, its expansion and a mistake in it, drawn from the bytes: the two oracles agree.
#![no_main]

use lemon_check::certify::{Reach, certify};
use lemon_check::checkpoint::Dtype;
use lemon_check::model::describe;
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::{Draw, generator};
use lemon_check::testing::{Architecture, Models, Mutant, SourceCase, TargetCase, inputs};
use lemon_check_fuzz::Words;
use libfuzzer_sys::fuzz_target;
use rand::RngCore;

fuzz_target!(|bytes: &[u8]| {
    let mut words = Words::new(bytes);
    let (architecture, mutant) = (words.pick(&Architecture::ALL), words.pick(Mutant::ALL));
    let source = SourceCase::random(architecture, &mut words);
    let target = TargetCase::random(&source, &mut words);
    let models = Models::build(source, target).unwrap_or_else(|e| panic!("{e}"));
    let of_source = (&models.source, &models.source_model);
    let right = (&models.expanded, &models.expanded_model);
    let found = certify(of_source, right, &|_, _| ()).expect("both can be read");
    // Where rows cancel down to their rounding and a norm enlarges it, nothing can be told, which is
    // said; where a LayerNorm reads a single channel, the sizes of heads are rounding as well.
    let first = (found.failures.first(), found.unknown.first());
    let blurred =
        found.unknown.iter().all(|unknown| unknown.reason.contains("nothing can be told"));
    let epsilon = found.failures.iter().all(|failure| failure.reach == Reach::Epsilon);
    let undecided = found.failures.is_empty() || (models.is_steep() && epsilon);
    let told = found.proves_lossless() || (blurred && undecided);
    assert!(told, "{first:?}\n{}", models.replay());

    let seed = words.next_u64();
    let Some(mutated) = mutant.apply(&models.pair(), seed).expect("it can be read") else { return };
    let model = describe(&mutated.checkpoint).expect("it is a model");
    let found = certify(of_source, (&mutated.checkpoint, &model), &|_, _| ()).expect("readable");
    if !found.proves_lossless() || models.source_case.dtype != Dtype::F64 || models.is_steep() {
        return;
    }
    let all = inputs::covering(of_source.1, 20, &mut generator(seed));
    let apart = difference(&run(right.0, right.1, &all), &run(&mutated.checkpoint, &model, &all));
    assert!(apart < 1e-9, "{} is missed, {apart:e} apart\n{}", mutant.name(), models.replay());
});
