//! Random residual convolutional networks: the generator makes legal ones, their expansions are
//! proven and agree, and no mistake in one is proven lossless.
//!
//! `LEMON_CASES` sets the number of random pairs (default 200).

use lemon_check::checkpoint::Dtype;
use lemon_check::model::convolutional::describe_convnet;
use lemon_check::testing::convolutional::networks::{Networks, apart, logits};
use lemon_check::testing::convolutional::{CONV_MUTANTS, ConvCase, random_images};
use lemon_check::testing::random::{cases, cases_at_least, generator};
use lemon_check::testing::{Intent, WeightStyle};
use std::collections::{BTreeMap, BTreeSet};

/// Changes of logits below this, relative to their spread, are not told from rounding in f64.
const VISIBLE: f64 = 1e-10;

#[test]
fn every_random_case_is_a_network_and_every_setting_is_reached() {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for seed in 0..cases_at_least(300) {
        let case = ConvCase::random(&mut generator(seed));
        let text = serde_json::to_string(&case).unwrap();
        assert_eq!(serde_json::from_str::<ConvCase>(&text).unwrap(), case);
        let checkpoint = case.build().unwrap_or_else(|e| panic!("{e}\n{text}"));
        let net = describe_convnet(&checkpoint).unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(net.strangers(&checkpoint), [""; 0], "{text}");
        assert_eq!(net.lenses(), case.net().unwrap().lenses(), "{text}");
        let mut what: BTreeSet<String> = BTreeSet::new();
        what.insert(format!("weights {:?}", case.weights));
        what.insert(format!("dtype {:?}", case.dtype));
        what.insert(format!("names {}", case.stored));
        what.insert(format!("stages {}", net.stages.len()));
        what.insert(format!("batches counted {}", case.counted));
        for block in net.stages.iter().flatten() {
            let strides: Vec<usize> = block.convolutions.iter().map(|c| c.stride).collect();
            what.insert(format!("shortcut {} strides {strides:?}", block.shortcut.is_some()));
        }
        what.into_iter().for_each(|what| *seen.entry(what).or_default() += 1);
    }
    for what in [
        "shortcut false strides [1, 1, 1]",
        "shortcut true strides [1, 1, 1]",
        "shortcut true strides [2, 1, 1]",
        "shortcut true strides [1, 2, 1]",
        "shortcut false strides [1, 1]",
        "shortcut true strides [1, 1]",
        "shortcut true strides [2, 1]",
        "names conv1.weight",
        "names resnet.embedder.embedder.convolution.weight",
        "names embedder.embedder.convolution.weight",
        "stages 1",
        "stages 3",
        "batches counted true",
        "dtype Bf16",
        "weights DefaultInit",
        "weights SmallEmbeddings",
    ] {
        let times = seen.get(what).copied().unwrap_or(0);
        assert!(times >= 15, "`{what}` {times} times: {seen:?}");
    }
}

#[test]
fn right_expansions_are_proven_and_agree() {
    for seed in 0..u64::from(cases(200)) {
        let networks = Networks::random(seed, |_| ()).unwrap();
        let found = networks.certificate(&networks.expanded, &networks.expanded_net);
        let said = format!("seed {seed}: {found:?}\n{}", networks.replay());
        assert!(found.proves_lossless(), "{said}");
        let images = random_images(&networks.source_net, &mut generator(seed));
        let small = logits(&networks.source, &networks.source_net, &images);
        let large = logits(&networks.expanded, &networks.expanded_net, &images);
        if networks.source_case.dtype == Dtype::F64 {
            let apart = apart(&small, &large);
            assert!(apart < VISIBLE, "{apart:e}: {said}");
        }
    }
}

#[test]
fn every_network_equals_itself() {
    for seed in 0..cases_at_least(40) {
        let networks = Networks::random(seed, |_| ()).unwrap();
        let (source, net) = (&networks.source, &networks.source_net);
        let found = networks.certificate(source, net);
        assert!(found.proves_lossless() && found.exact, "{found:?}\n{}", networks.replay());
    }
}

/// How often a change was seen in the logits, how often not, and how often it was then proven.
#[derive(Default, Debug)]
struct Count {
    changed: usize,
    equal: usize,
    proven: usize,
}

#[test]
fn no_mistake_is_proven_lossless_and_equivalent_changes_are() {
    let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
    for seed in 0..cases_at_least(60) {
        let networks = Networks::random(seed, |source| source.dtype = Dtype::F64).unwrap();
        let images = random_images(&networks.source_net, &mut generator(seed));
        let right = logits(&networks.expanded, &networks.expanded_net, &images);
        for mutant in CONV_MUTANTS {
            let Some(mutated) = mutant.apply(&networks.pair(), seed).unwrap() else { continue };
            let net = describe_convnet(&mutated.checkpoint).unwrap();
            let apart = apart(&right, &logits(&mutated.checkpoint, &net, &images));
            let found = networks.certificate(&mutated.checkpoint, &net);
            let said = || {
                let (name, subject) = (mutant.name, &mutated.subject);
                format!("seed {seed}: {name} in {subject}, {apart:e}\n{}", networks.replay())
            };
            let count = counts.entry(mutant.name).or_default();
            if apart > VISIBLE {
                count.changed += 1;
                assert!(!found.proves_lossless(), "missed: {}", said());
                assert_eq!(mutant.intent, Intent::Mistake, "{}", said());
            } else {
                count.equal += 1;
                count.proven += usize::from(found.proves_lossless());
            }
            if mutant.intent == Intent::Equivalent {
                assert!(found.proves_lossless(), "{}: {found:?}", said());
            }
        }
    }
    for mutant in CONV_MUTANTS {
        let Some(count) = counts.get(mutant.name) else { panic!("{} never applied", mutant.name) };
        println!("{:40} {count:?}", mutant.name);
        let seen = count.changed >= (count.changed + count.equal).div_ceil(2);
        assert!(seen || mutant.intent == Intent::Equivalent, "{}: {count:?}", mutant.name);
    }
}

/// Channels whose γ and β training or pruning made zero are read by anything.
#[test]
fn what_reads_a_channel_that_is_zero_in_both_networks_does_not_matter() {
    let mut silenced = 0;
    for seed in 0..cases_at_least(60) {
        let networks = Networks::random(seed, |source| {
            (source.dtype, source.weights) = (Dtype::F64, WeightStyle::Random);
        })
        .unwrap();
        let gamma = |lens: &lemon_check::model::Lens| lens.read(&networks.source).unwrap();
        let mut norms = networks.source_net.convolutions().map(|c| gamma(&c.norm.weight));
        silenced += usize::from(norms.any(|gamma| gamma.iter().any(|g| *g == 0.0)));
        let found = networks.certificate(&networks.expanded, &networks.expanded_net);
        assert!(found.proves_lossless(), "seed {seed}: {found:?}\n{}", networks.replay());
    }
    assert!(silenced > 20, "only {silenced} networks have such a channel");
}

#[test]
fn the_same_seed_makes_the_same_change() {
    let networks = Networks::random(5, |_| ()).unwrap();
    for mutant in CONV_MUTANTS {
        let make = || mutant.apply(&networks.pair(), 11).unwrap();
        let (Some(one), Some(two)) = (make(), make()) else { continue };
        assert_eq!(one.subject, two.subject);
        for (name, tensor) in one.checkpoint.tensors() {
            assert_eq!(tensor.bytes(), two.checkpoint.tensor(name).unwrap().bytes(), "{name}");
        }
    }
}
