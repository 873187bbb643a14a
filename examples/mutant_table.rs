//! Prints which deliberate mistakes are found in which family, as a table in Markdown:
//! `cargo run --release --example mutant_table -- [PAIRS] > reports/mutants.md`.

use lemon_check::certify::{Certificate, certify};
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::model::convolutional::describe_convnet;
use lemon_check::model::{Model, describe};
use lemon_check::testing::convolutional::networks::{Networks, apart, logits};
use lemon_check::testing::convolutional::{CONV_MUTANTS, random_images};
use lemon_check::testing::models::{difference, run};
use lemon_check::testing::random::generator;
use lemon_check::testing::{Architecture, Intent, Models, Mutant, inputs};
use std::collections::BTreeMap;

/// Random pairs per family, where nothing else is said.
const PAIRS: u64 = 60;
/// Changes of outputs below this, relative to their spread, are not told from rounding in f64.
const VISIBLE: f64 = 1e-10;

/// What became of one mutant in one family.
#[derive(Default)]
struct Cell {
    /// Pairs in which an output changed.
    changed: usize,
    /// Of these, those that are not called lossless.
    caught: usize,
    /// Of these, those in which the changed tensor or field comes first.
    named: usize,
    /// Pairs in which no output changed.
    equal: usize,
    /// Of these, those that are proven lossless.
    proven: usize,
}

/// What became of the right pairs of one family.
#[derive(Default)]
struct Right {
    pairs: usize,
    proven: usize,
}

type Cells = BTreeMap<(Architecture, Mutant), Cell>;

fn main() {
    let pairs = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(PAIRS);
    let mut cells = Cells::new();
    let mut rights: BTreeMap<Architecture, Right> = BTreeMap::new();
    for architecture in Architecture::ALL {
        let right = rights.entry(architecture).or_default();
        for seed in 0..pairs {
            survey(architecture, seed, right, &mut cells);
        }
    }
    print(pairs, &rights, &cells);
    networks_table(pairs);
}

fn certificate(models: &Models, expanded: (&Checkpoint, &Model)) -> Certificate {
    certify((&models.source, &models.source_model), expanded, &|_, _| ())
        .unwrap_or_else(|e| panic!("{e}\n{}", models.replay()))
}

fn survey(architecture: Architecture, seed: u64, right: &mut Right, cells: &mut Cells) {
    right.pairs += 1;
    // A refusal is said by `Models`.
    let Ok(models) = Models::random(architecture, seed, |source| source.dtype = Dtype::F64) else {
        return;
    };
    let found = certificate(&models, (&models.expanded, &models.expanded_model));
    if found.proves_lossless() {
        right.proven += 1;
    } else {
        let first = (found.failures.first(), found.unknown.first());
        eprintln!("{architecture:?} {seed} is not proven: {first:?}\n{}", models.replay());
    }
    if models.is_steep() {
        return;
    }
    let mut rng = generator(seed);
    let mut all = inputs::random(&models.source_model, &mut rng);
    all.extend(inputs::covering(&models.source_model, 20, &mut rng));
    let outputs = run(&models.expanded, &models.expanded_model, &all);
    for mutant in Mutant::ALL {
        let mutated = mutant.apply(&models.pair(), seed).unwrap_or_else(|e| panic!("{e}"));
        let Some(mutated) = mutated else { continue };
        let cell = cells.entry((architecture, *mutant)).or_default();
        let Ok(model) = describe(&mutated.checkpoint) else {
            eprintln!("{architecture:?} {seed} {}: it is no model", mutant.name());
            continue;
        };
        let apart = difference(&outputs, &run(&mutated.checkpoint, &model, &all));
        let found = certificate(&models, (&mutated.checkpoint, &model));
        let proven = found.proves_lossless();
        if apart > VISIBLE {
            cell.changed += 1;
            cell.caught += usize::from(!proven);
            let first = found.failures.first();
            cell.named += usize::from(first.is_some_and(|f| f.tensor == mutated.subject));
            if proven || mutant.intent() == Intent::Equivalent {
                let name = mutant.name();
                eprintln!("{architecture:?} {seed} {name}: {apart:e}, proven {proven}");
            }
        } else {
            cell.equal += 1;
            cell.proven += usize::from(proven);
        }
    }
}

fn print(pairs: u64, rights: &BTreeMap<Architecture, Right>, cells: &Cells) {
    println!("# Which mistakes are found in which family\n");
    let asked = if pairs == PAIRS { String::new() } else { format!("-- {pairs} ") };
    println!("Made by `cargo run --release --example mutant_table {asked}> reports/mutants.md`.\n");
    println!(
        "{pairs} random expansions of random models (f64) per family, each with every deliberate \
         change of the\ncatalogue that applies to it. A change counts if an output differs by more \
         than {VISIBLE:e} of its spread.\n"
    );
    println!("## Right expansions\n");
    println!("| family | pairs | proven lossless |\n| --- | --- | --- |");
    for (architecture, right) in rights {
        println!("| {architecture:?} | {} | {} |", right.pairs, right.proven);
    }
    println!("\n## Mistakes\n");
    println!(
        "`named/changed`: in so many pairs an output changed, and in so many of them the first \
         thing that is\nblamed is the tensor or the field that was changed. Every change was found, \
         unless the cell says\n**missed**. `·`: it changed no output; `–`: it never applied.\n"
    );
    table(Intent::Mistake, cells, mistake);
    println!("\n## Equivalent changes\n");
    println!("`proven/applied`: so many of the changed expansions are proven lossless.\n");
    table(Intent::Equivalent, cells, equivalent);
}

fn mistake(cell: &Cell) -> String {
    match (cell.changed, cell.changed - cell.caught) {
        (0, _) => "·".into(),
        (changed, 0) => format!("{}/{changed}", cell.named),
        (changed, missed) => format!("**missed {missed}** of {changed}"),
    }
}

fn equivalent(cell: &Cell) -> String {
    match cell.changed {
        0 => format!("{}/{}", cell.proven, cell.equal),
        changed => format!("**{changed} changed an output**"),
    }
}

/// As [`survey`], for ResNets, whose catalogue is their own.
fn networks_table(pairs: u64) {
    let mut cells: Vec<Cell> = CONV_MUTANTS.iter().map(|_| Cell::default()).collect();
    let mut proven = 0;
    for seed in 0..pairs {
        let Ok(pair) = Networks::random(seed, |source| source.dtype = Dtype::F64) else { continue };
        let found = pair.certificate(&pair.expanded, &pair.expanded_net);
        proven += usize::from(found.proves_lossless());
        let images = random_images(&pair.source_net, &mut generator(seed));
        let right = logits(&pair.expanded, &pair.expanded_net, &images);
        for (mutant, cell) in CONV_MUTANTS.iter().zip(&mut cells) {
            let mutated = mutant.apply(&pair.pair(), seed).unwrap_or_else(|e| panic!("{e}"));
            let Some(mutated) = mutated else { continue };
            let Ok(net) = describe_convnet(&mutated.checkpoint) else { continue };
            let found = pair.certificate(&mutated.checkpoint, &net);
            if apart(&right, &logits(&mutated.checkpoint, &net, &images)) > VISIBLE {
                cell.changed += 1;
                cell.caught += usize::from(!found.proves_lossless());
                let first = found.failures.first();
                cell.named += usize::from(first.is_some_and(|f| f.tensor == mutated.subject));
            } else {
                cell.equal += 1;
                cell.proven += usize::from(found.proves_lossless());
            }
        }
    }
    println!("\n## ResNets\n");
    println!("Of {pairs} right expansions, {proven} are proven lossless. Changes, as above:\n");
    println!("| | |\n| --- | --- |");
    for (mutant, cell) in CONV_MUTANTS.iter().zip(&cells) {
        let shown = match mutant.intent {
            Intent::Mistake => mistake(cell),
            Intent::Equivalent => equivalent(cell),
        };
        println!("| {} | {shown} |", mutant.name);
    }
}

fn table(intent: Intent, cells: &Cells, show: impl Fn(&Cell) -> String) {
    let names = Architecture::ALL.map(|architecture| format!("{architecture:?}"));
    println!("| | {} |", names.join(" | "));
    println!("| --- |{}", " --- |".repeat(names.len()));
    for mutant in Mutant::ALL.iter().filter(|mutant| mutant.intent() == intent) {
        let shown = Architecture::ALL
            .map(|architecture| cells.get(&(architecture, *mutant)).map_or("–".to_string(), &show));
        println!("| {} | {} |", mutant.name(), shown.join(" | "));
    }
}
