//! What the changes of the catalogue truly do, found by running the models.

use lemon_check::checkpoint::Dtype;
use lemon_check::model::describe;
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::{cases_at_least, generator};
use lemon_check::testing::{Architecture, Intent, Models, Mutant, SourceCase, WeightStyle, inputs};
use std::collections::{BTreeMap, BTreeSet};

/// How often a change was applied, how often it was seen, and the largest difference it made.
#[derive(Default, Debug)]
struct Count {
    applied: usize,
    seen: usize,
    largest: f64,
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.applied += other.applied;
        self.seen += other.seen;
        self.largest = self.largest.max(other.largest);
    }
}

/// Below this, relative to the spread of the outputs, two f64 runs agree.
const AGREE: f64 = 1e-9;

/// Pairs per family that every change is made to; `LEMON_CASES` makes it more.
const PAIRS: u64 = 80;
/// A mistake that fewer of these pairs allow is looked for in more, until it was made so often.
const ENOUGH: usize = 10;
/// But in no more pairs per family than this.
const MOST_PAIRS: u64 = 1000;

/// They show only on inputs longer than a window or a distance, or where a head is stored that is
/// not the table.
const SELDOM: [Mutant; 5] = [
    Mutant::WindowsInPlace,
    Mutant::WindowOff,
    Mutant::WindowLost,
    Mutant::FarthestDistanceOff,
    Mutant::TyingFlipped,
];

type Counts = BTreeMap<Mutant, Count>;

/// A random pair in which changes show: no other number format and no absurd weights.
fn pair(architecture: Architecture, seed: u64) -> Models {
    let adjust = |source: &mut SourceCase| {
        source.dtype = Dtype::F64;
        source.weights = WeightStyle::Random;
        let least = |eps: f64| eps.max(1e-6);
        source.resize(|sizes| sizes.norm_eps = sizes.norm_eps.map(least)).unwrap();
    };
    Models::random(architecture, seed, adjust).unwrap()
}

/// Makes each of `mutants` in one pair and counts what the forward pass shows of it.
fn judge(models: &Models, seed: u64, mutants: &[Mutant], counts: &mut Counts) {
    let changed: Vec<_> = mutants
        .iter()
        .filter_map(|mutant| Some((*mutant, mutant.apply(&models.pair(), seed).unwrap()?)))
        .collect();
    if changed.is_empty() {
        return;
    }
    let mut rng = generator(seed);
    let mut all = inputs::random(&models.source_model, &mut rng);
    all.extend(inputs::covering(&models.source_model, 20, &mut rng));
    let right = run(&models.expanded, &models.expanded_model, &all);
    for (mutant, mutated) in changed {
        let model = describe(&mutated.checkpoint).unwrap();
        let apart = difference(&right, &run(&mutated.checkpoint, &model, &all));
        let count = counts.entry(mutant).or_default();
        count.applied += 1;
        count.seen += usize::from(apart > AGREE);
        count.largest = count.largest.max(apart);
        assert!(
            mutant.intent() == Intent::Mistake || apart < AGREE,
            "{} makes a difference of {apart:e} ({seed}, {})\n{}",
            mutant.name(),
            mutated.subject,
            models.replay()
        );
    }
}

fn survey() -> Counts {
    let mut counts = Counts::new();
    // Where each change was made at all.
    let mut families: BTreeMap<Mutant, Vec<Architecture>> = BTreeMap::new();
    for architecture in Architecture::ALL {
        let mut of_family = Counts::new();
        for seed in 0..cases_at_least(PAIRS) {
            let models = pair(architecture, seed);
            if !models.is_steep() {
                judge(&models, seed, Mutant::ALL, &mut of_family);
            }
        }
        for (mutant, count) in of_family {
            families.entry(mutant).or_default().push(architecture);
            counts.entry(mutant).or_default().add(&count);
        }
    }
    for (mutant, families) in families {
        let more = (cases_at_least(PAIRS)..MOST_PAIRS)
            .flat_map(|seed| families.iter().map(move |f| (*f, seed)));
        for (architecture, seed) in more {
            if counts[&mutant].applied >= ENOUGH {
                break;
            }
            let models = pair(architecture, seed);
            if !models.is_steep() {
                judge(&models, seed, &[mutant], &mut counts);
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
        assert!(count.applied >= ENOUGH, "{} applied {count:?}", mutant.name());
        let wanted = match mutant.intent() {
            _ if SELDOM.contains(mutant) => 1,
            Intent::Mistake => count.applied.div_ceil(2),
            Intent::Equivalent => 0,
        };
        assert!(count.seen >= wanted, "{} seen {count:?}", mutant.name());
    }
}

#[test]
fn the_catalogue_holds_at_least_sixty_mistakes() {
    let mistakes = Mutant::ALL.iter().filter(|mutant| mutant.intent() == Intent::Mistake);
    let names: BTreeSet<&str> = mistakes.map(|mutant| mutant.name()).collect();
    assert!(names.len() >= 60, "{}", names.len());
    let all: BTreeSet<&str> = Mutant::ALL.iter().map(|mutant| mutant.name()).collect();
    assert_eq!(all.len(), Mutant::ALL.len(), "two have one name");
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
