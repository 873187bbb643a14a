//! Someone else's expansion code, held to the proof on random architectures.
//!
//! ```
//! use lemon_check::expand::expand;
//! use lemon_check::model::describe;
//! use lemon_check::testing::check_expander;
//!
//! // Stands for your own code. `Ok(None)` says that it does not do this architecture or target.
//! check_expander(|source, target| {
//!     let model = describe(source)?;
//!     if model.family.name != "llama" || target.layers != model.sizes.layers {
//!         return Ok(None);
//!     }
//!     expand(source, &model, &target.options()).map(Some)
//! });
//! ```
//!
//! The code may be a program in any language, which reads and writes files:
//!
//! ```no_run
//! use lemon_check::Error;
//! use lemon_check::checkpoint::{Checkpoint, SHARD_LIMIT, save};
//! use lemon_check::testing::{Architecture, Trials};
//! use std::process::Command;
//!
//! let folder = std::env::temp_dir().join("my-expander");
//! let families = vec![Architecture::Gpt2, Architecture::Llama];
//! let trials = Trials { families, ..Trials::new() };
//! let counted = trials.run(|source, target| {
//!     let (small, large) = (folder.join("small"), folder.join("large"));
//!     let _ = std::fs::remove_dir_all(&folder);
//!     save(&small, source.config(), source.tensors(), SHARD_LIMIT)?;
//!     let sizes = serde_json::to_string(target).expect("plain data");
//!     let mut python = Command::new("python3");
//!     let run = python.arg("expand.py").args([&small, &large]).arg(sizes).status();
//!     match run.ok().and_then(|status| status.code()) {
//!         Some(0) => Checkpoint::open(&large, None).map(Some),
//!         Some(3) => Ok(None),
//!         code => Err(Error::bad_input(format!("expand.py ended with {code:?}"))),
//!     }
//! });
//! println!("{}", counted.unwrap_or_else(|found| panic!("{found}")));
//! ```

use super::lossless::report_on;
use super::random::{cases, generator};
use super::shrink::{PairCase, smallest};
use super::{Architecture, Models, SourceCase, TargetCase};
use crate::check::Verdict;
use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::model::{Sizes, describe};
use rand::RngCore;
use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How often, and on what, expansion code is tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trials {
    /// The families of the random sources, in turn.
    pub families: Vec<Architecture>,
    /// How many random pairs of a source and a target that the code does.
    pub cases: u64,
    /// What all random choices follow from.
    pub seed: u64,
}

impl Trials {
    /// Every family, 300 cases (or as many as the environment's `LEMON_CASES` says), seed 0.
    pub fn new() -> Trials {
        Trials { families: Architecture::ALL.to_vec(), cases: cases(300).into(), seed: 0 }
    }

    /// Gives random sources and targets to `expander`, and checks what it returns: a model of the
    /// target's sizes that is proven to compute what the source computes. `Ok(None)` says that the
    /// code does not do this source or this target, which is counted and no failure; others are
    /// drawn in its place, up to [`DRAWS`] for each case. A panic of the code is a failure.
    ///
    /// Sources whose outputs are constant, or moved by rounding as far as they go, are not drawn:
    /// they show nothing.
    ///
    /// Of a target, sizes bind; `free`, `cancel`, `insert_after` and `seed` are what our own
    /// expansion would make of the freedom that is left.
    ///
    /// # Errors
    /// The first failure, made as small as it goes; see [`Counterexample`].
    pub fn run(
        &self,
        mut expander: impl FnMut(&Checkpoint, &TargetCase) -> Result<Option<Checkpoint>>,
    ) -> std::result::Result<Tried, Box<Counterexample>> {
        let mut tried = Tried::default();
        let families = self.families.iter().cycle();
        for (case, family) in (0..self.cases.saturating_mul(DRAWS)).zip(families) {
            if tried.lossless + tried.unchanged == self.cases {
                break;
            }
            let mut rng = generator(generator(self.seed ^ case.rotate_left(32)).next_u64());
            let source = SourceCase::random(*family, &mut rng);
            let target = TargetCase::random(&source, &mut rng);
            let pair = (source, target);
            match judge(&pair, &mut expander) {
                Some(Outcome::Lossless { grown: true }) => tried.lossless += 1,
                Some(Outcome::Lossless { grown: false }) => tried.unchanged += 1,
                Some(Outcome::Unsupported) => tried.unsupported += 1,
                Some(Outcome::Fails(how, _)) => return Err(minimal(pair, how, &mut expander)),
                // Our own expansion refuses the case: it says nothing about other code.
                None => {}
            }
        }
        Ok(tried)
    }
}

impl Default for Trials {
    fn default() -> Self {
        Trials::new()
    }
}

/// So many random pairs are drawn for each case that is to be tried, as code may do but a few.
pub const DRAWS: u64 = 20;

/// Fewer expansions that grow show too little.
const FEWEST: u64 = 20;

/// Tries expansion code on random architectures of every family, and says how many; see
/// [`Trials::run`].
///
/// # Panics
/// With the smallest counterexample, if the code returns anything but a lossless expansion; and if
/// it does so few of the cases that they show little.
#[track_caller]
pub fn check_expander(
    expander: impl FnMut(&Checkpoint, &TargetCase) -> Result<Option<Checkpoint>>,
) -> Tried {
    let trials = Trials::new();
    match trials.run(expander) {
        Ok(tried) if tried.lossless >= FEWEST.min(trials.cases) => tried,
        Ok(tried) => panic!(
            "too little was checked: {tried}. Restrict `Trials::families` to what the code does, \
             raise LEMON_CASES, or have sources drawn by `testing::arbitrary` and choose the \
             target yourself"
        ),
        Err(found) => panic!("{found}"),
    }
}

/// What became of all cases, where none failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// Expansions that are proven lossless, and larger than their source.
    pub lossless: u64,
    /// Models of the source's own sizes that are proven lossless.
    pub unchanged: u64,
    /// Cases that the code says it does not do.
    pub unsupported: u64,
}

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Tried { lossless, unchanged, unsupported } = self;
        write!(f, "{lossless} lossless, {unchanged} of unchanged size, {unsupported} not supported")
    }
}

/// In which way expansion code fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It panicked.
    Panic,
    /// It returned an error.
    Error,
    /// What it returned is no model that can be read, or not one that the source can become.
    NoModel,
    /// What it returned has other sizes than the target.
    OtherSizes,
    /// What it returned computes something else.
    NotLossless,
    /// What it returned is not proven, nor refuted.
    Undecided,
}

/// A case in which expansion code fails: none that is one step smaller fails in the same way.
///
/// What it shows can be made again:
///
/// ```
/// use lemon_check::testing::{Models, SourceCase, TargetCase};
///
/// # fn again(source: &str, target: &str) -> Result<(), Box<dyn std::error::Error>> {
/// let source: SourceCase = serde_json::from_str(source)?;
/// let target: TargetCase = serde_json::from_str(target)?;
/// let models = Models::build(source, target)?;
/// println!("{:?}", models.source.tensors().keys());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Counterexample {
    /// In which way.
    pub fault: Fault,
    /// The source.
    pub source: SourceCase,
    /// The target.
    pub target: TargetCase,
    /// The check's report, or what is wrong instead.
    pub report: String,
}

/// As it is displayed: what `unwrap` shows of it is to be read.
impl fmt::Debug for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Counterexample {}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let show = |value: serde_json::Result<String>| value.unwrap_or_else(|e| e.to_string());
        let (source, target) =
            (serde_json::to_string(&self.source), serde_json::to_string(&self.target));
        writeln!(f, "the expansion fails ({:?}); the smallest case found:", self.fault)?;
        writeln!(f, "  source {}\n  target {}\n", show(source), show(target))?;
        f.write_str(&self.report)
    }
}

/// What one case came to.
enum Outcome {
    Lossless { grown: bool },
    Unsupported,
    Fails(Fault, String),
}

/// Tries one case; nothing if it is no legal one, or shows nothing.
fn judge(
    (source, target): &PairCase,
    expander: &mut impl FnMut(&Checkpoint, &TargetCase) -> Result<Option<Checkpoint>>,
) -> Option<Outcome> {
    let models = Models::build(source.clone(), target.clone()).ok()?;
    if models.shows_nothing() {
        return None;
    }
    let expand = AssertUnwindSafe(|| expander(&models.source, target));
    let expanded = match catch_unwind(expand) {
        Ok(Ok(Some(expanded))) => expanded,
        Ok(Ok(None)) => return Some(Outcome::Unsupported),
        Ok(Err(error)) => return Some(Outcome::Fails(Fault::Error, error.to_string())),
        Err(panic) => return Some(Outcome::Fails(Fault::Panic, message(&*panic))),
    };
    let no_model = |error: crate::Error| Outcome::Fails(Fault::NoModel, error.to_string());
    let found = match describe(&expanded) {
        Ok(model) => model.sizes,
        Err(error) => return Some(no_model(error)),
    };
    if let Some(difference) = other_sizes(&models.expanded_model.sizes, &found) {
        return Some(Outcome::Fails(Fault::OtherSizes, difference));
    }
    Some(match report_on(&models.source, &expanded) {
        Ok(report) if report.passed => {
            Outcome::Lossless { grown: models.source_model.sizes != models.expanded_model.sizes }
        }
        Ok(report) if report.verdict == Verdict::Undecided => {
            Outcome::Fails(Fault::Undecided, report.text())
        }
        Ok(report) => Outcome::Fails(Fault::NotLossless, report.text()),
        Err(error) => no_model(error),
    })
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let words = panic.downcast_ref::<String>().map(String::as_str);
    let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
    format!("it panicked: {}", words.unwrap_or("without words"))
}

/// The first size that is not the one asked for.
fn other_sizes(asked: &Sizes, found: &Sizes) -> Option<String> {
    let experts = |sizes: &Sizes| sizes.experts.map_or(0, |count| count.all);
    let sizes = [
        ("hidden channels", asked.hidden, found.hidden),
        ("heads", asked.heads, found.heads),
        ("key/value heads", asked.kv_heads, found.kv_heads),
        ("channels per head", asked.head_dim, found.head_dim),
        ("neurons", asked.intermediate, found.intermediate),
        ("layers", asked.layers, found.layers),
        ("experts", experts(asked), experts(found)),
    ];
    let (what, asked, found) = sizes.into_iter().find(|(_, asked, found)| asked != found)?;
    Some(format!("the target asks for {asked} {what}, the expansion has {found}"))
}

/// The smallest case that fails in the same way.
fn minimal(
    case: PairCase,
    fault: Fault,
    expander: &mut impl FnMut(&Checkpoint, &TargetCase) -> Result<Option<Checkpoint>>,
) -> Box<Counterexample> {
    let mut last = String::new();
    let mut fails = |case: &PairCase| match judge(case, expander) {
        Some(Outcome::Fails(how, report)) if how == fault => {
            last = report;
            true
        }
        _ => false,
    };
    fails(&case);
    let (source, target) = smallest(case, &mut fails);
    Box::new(Counterexample { fault, source, target, report: last })
}
