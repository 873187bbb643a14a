//! What is said of fixed pairs is what was said of them before: of right expansions the bounds and
//! the maps, of mistakes the verdict, what is blamed and how far it is off, and what `expand` makes.
//! Whether it is right, others tests say; a bound that is suddenly wider, or a cause that is no
//! longer named, fails none of them.
//!
//! `tests/unchanged/` has a page for each family. Where a change is meant to change them,
//! `LEMON_KEEP=1 cargo test --test unchanged` writes them anew: read what is different.

use lemon_check::certify::{Certificate, Method, certify_by};
use lemon_check::checkpoint::{Checkpoint, Dtype};
use lemon_check::model::convolutional::describe_convnet;
use lemon_check::model::describe;
use lemon_check::testing::convolutional::CONV_MUTANTS;
use lemon_check::testing::convolutional::networks::Networks;
use lemon_check::testing::survey::Subject;
use lemon_check::testing::{Architecture, Models, Mutant, WeightStyle};
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{env, fs, path::Path};

/// Pairs of a family, each in another format.
const FORMATS: [Dtype; 4] = [Dtype::F32, Dtype::Bf16, Dtype::F64, Dtype::F32];

/// Each pair has one in so many of the changes.
const SHARE: usize = 8;

/// To two digits: the last ones of sums depend on the processor. Far below one they are rounding.
fn short(value: f64) -> String {
    if value.abs() < 1e-9 { "0".into() } else { format!("{value:.1e}") }
}

/// What a checkpoint holds, in one number.
fn sum(checkpoint: &Checkpoint) -> String {
    let mut sum = 0.0;
    for tensor in checkpoint.tensors().values() {
        let dtype = tensor.dtype.expect("its numbers have a format");
        let value = |at: usize| dtype.get(tensor.bytes(), at).abs() * (1.0 + (at % 7) as f64);
        sum += (0..tensor.len()).map(value).sum::<f64>();
    }
    format!("{sum:.6e}")
}

fn right(found: &Certificate, dtype: Dtype) -> String {
    // In f64 the residuals are rounding of sums.
    let worst = if dtype == Dtype::F64 { String::new() } else { short(found.worst_units) };
    let mut said = format!(
        "{}, {} equations, {} entries, worst {worst}, resolution {}",
        if found.proves_lossless() { "lossless" } else { "not proven" },
        found.equations,
        found.entries,
        short(found.resolution),
    );
    for map in &found.maps {
        write!(said, "\n    {}: {}", map.space, map.words).unwrap();
    }
    said
}

fn changed(found: &Certificate) -> String {
    let mut said = match found.failures.len() {
        0 if found.proves_lossless() => "lossless".into(),
        count => format!("{count} failures"),
    };
    for failure in found.failures.iter().take(3) {
        write!(
            said,
            "\n    {}: {}, {} {:?} ({}), {} for {}, {} units, {}, {} of {}, {:?}: {}",
            failure.place,
            failure.rule,
            failure.tensor,
            failure.index,
            failure.source_tensor,
            short(failure.got),
            short(failure.expected),
            short(failure.units),
            short(failure.relative),
            failure.wrong,
            failure.entries,
            failure.reach,
            failure.cause.as_deref().unwrap_or("-"),
        )
        .unwrap();
    }
    for unknown in found.unknown.iter().take(2) {
        write!(said, "\n    {}: {}", unknown.subject, unknown.reason).unwrap();
    }
    said
}

fn transformers(architecture: Architecture, page: &mut String) {
    for (seed, dtype) in FORMATS.into_iter().enumerate() {
        let styles = [WeightStyle::Random, WeightStyle::SmallEmbeddings];
        let models = Models::random(architecture, seed as u64, |source| {
            source.dtype = dtype;
            source.weights = styles[seed / 2];
        })
        .unwrap();
        let read = AtomicU64::new(0);
        let of = |checkpoint: &Checkpoint, method| {
            let model = describe(checkpoint).unwrap();
            let source = (&models.source, &models.source_model);
            read.store(0, Relaxed);
            let progress = |done: u64, _| {
                read.fetch_max(done, Relaxed);
            };
            certify_by(method, source, (checkpoint, &model), &progress).unwrap()
        };
        writeln!(page, "{} {seed}, expanded to {}", dtype.config_name(), sum(&models.expanded))
            .unwrap();
        for method in [Method::Streamed, Method::Whole] {
            let found = of(&models.expanded, method);
            let read = read.load(Relaxed);
            writeln!(page, "  {method:?}: {read} bytes, {}", right(&found, dtype)).unwrap();
        }
        let kinds = Mutant::ALL.iter().skip((architecture as usize + seed * 3) % SHARE);
        for mutant in kinds.step_by(SHARE) {
            let Some(mutated) = mutant.apply(&models.pair(), seed as u64).unwrap() else {
                continue;
            };
            let found = of(&mutated.checkpoint, Method::Streamed);
            writeln!(page, "  {}: {}", mutant.name(), changed(&found)).unwrap();
        }
    }
}

fn networks(page: &mut String) {
    for seed in 0..FORMATS.len() * 3 {
        let dtype = FORMATS[seed % FORMATS.len()];
        let pair = Networks::random(seed as u64, |source| source.dtype = dtype).unwrap();
        writeln!(page, "{} {seed}, expanded to {}", dtype.config_name(), sum(&pair.expanded))
            .unwrap();
        let found = pair.certificate(&pair.expanded, &pair.expanded_net);
        writeln!(page, "  {}", right(&found, dtype)).unwrap();
        for mutant in CONV_MUTANTS.iter().skip(seed % 3).step_by(3) {
            let Some(mutated) = mutant.apply(&pair.pair(), seed as u64).unwrap() else { continue };
            let net = describe_convnet(&mutated.checkpoint).unwrap();
            let found = pair.certificate(&mutated.checkpoint, &net);
            writeln!(page, "  {}: {}", mutant.name, changed(&found)).unwrap();
        }
    }
}

#[test]
fn what_is_said_of_fixed_pairs_is_what_was_said_before() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/unchanged");
    let mut differences = Vec::new();
    for subject in Subject::all() {
        let mut page = String::new();
        match subject {
            Subject::Transformer(architecture) => transformers(architecture, &mut page),
            Subject::ResNet => networks(&mut page),
        }
        let path = folder.join(format!("{}.txt", subject.name()));
        if env::var_os("LEMON_KEEP").is_some() {
            fs::write(&path, page).unwrap();
            continue;
        }
        let kept = fs::read_to_string(&path).unwrap();
        let lines = kept.lines().zip(page.lines()).filter(|(old, new)| old != new);
        differences.extend(
            lines.take(2).map(|(old, new)| format!("{}:\n- {old}\n+ {new}", subject.name())),
        );
        if kept.lines().count() != page.lines().count() {
            differences.push(format!("{}: more or fewer lines", subject.name()));
        }
    }
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}
