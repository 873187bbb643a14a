//! The conformance suite: asks a backend random questions, judges the answers, and makes what fails
//! small.

use super::case::{Case, Question, Subject};
use super::judge::{Judgement, Place};
use super::{About, Backend, Failure, dtype_name};
use crate::check;
use crate::checkpoint::Dtype;
use crate::error::{Error, Result};
use crate::testing::random::generator;
use serde::Serialize;
use std::time::{Duration, Instant};

/// How much is asked.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Random cases of each operation, and of each family of models, that are compared.
    pub cases: u64,
    /// What all random choices follow from.
    pub seed: u64,
    /// Number format of the tensors.
    pub dtype: Dtype,
}

/// What a backend made of the questions.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Who was asked.
    pub backend: About,
    /// The number format.
    pub dtype: &'static str,
    /// The seed.
    pub seed: u64,
    /// One for each subject.
    pub subjects: Vec<Tally>,
}

/// What became of the questions of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Tally {
    /// The operation's name, or `forward` or `expand` and the family's.
    pub subject: String,
    /// Cases that were compared.
    pub cases: u64,
    /// Numbers that were compared.
    pub numbers: u64,
    /// Whether the backend lists the subject.
    pub listed: bool,
    /// Cases that the backend says it does not do; all of them where it does not list the subject.
    pub unsupported: u64,
    /// Cases of which no right answer could be told from a wrong one, as rounding may move it as
    /// far as it is large.
    pub vague: u64,
    /// Cases that were drawn and not asked: numbers of the reference overflow, or an expansion of
    /// the model would show nothing.
    pub left_out: u64,
    /// Cases that were not asked, as the backend had been waited for too long in vain.
    pub not_asked: u64,
    /// The largest difference, in units of the bound; at most 1 is right.
    pub worst: f64,
    /// The smallest absolute tolerance that would pass.
    pub difference: f64,
    /// The first case that was wrong; no more are asked after it.
    pub finding: Option<Finding>,
}

/// A wrong answer, or none.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Which of the cases it was, from 1.
    pub found_at: u64,
    /// The smallest case that is still wrong.
    pub case: Case,
    /// What is wrong with it.
    #[serde(flatten)]
    pub problem: Problem,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
pub enum Problem {
    /// A number is too far off.
    Disagreement {
        /// The number that is farthest off.
        place: Place,
        /// How far, in units of the bound; infinitely (`null` in JSON) where it must be exact.
        units: f64,
        /// Where the residual stream differs first, if the backend returned it and it does.
        #[serde(skip_serializing_if = "Option::is_none")]
        stream: Option<Place>,
    },
    /// A model that is not proven to be a lossless expansion.
    NotLossless {
        /// Whether it is shown to be none, or the check leaves it open.
        verdict: check::Verdict,
        /// The check's report.
        report: String,
    },
    /// There is no answer that could be compared.
    Failure {
        /// Why, in words.
        why: String,
    },
}

impl Problem {
    /// What stays the same while a case is made smaller: a model that is shown to compute something
    /// else does not become one of which that is left open.
    fn kind(&self) -> (std::mem::Discriminant<Problem>, Option<check::Verdict>) {
        let verdict = match self {
            Problem::NotLossless { verdict, .. } => Some(*verdict),
            _ => None,
        };
        (std::mem::discriminant(self), verdict)
    }
}

/// What became of one question.
enum Asked {
    Compared(Judgement),
    Vague,
    Unsupported,
    Wrong(Problem),
}

/// No case is made smaller for longer.
const SHRINKING_LIMIT: Duration = Duration::from_secs(60);
/// So many cases are drawn for each that is to be compared, as some are vague.
const DRAWS: u64 = 4;
/// So many for each expansion that is to be judged, as code may do but a few of the sizes.
const EXPANSIONS: u64 = 20;
/// A backend that has been waited for this long in vain is asked no more.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the whole outcome means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Every answer is within its bound.
    Agrees,
    /// Some answer is not, or there was none.
    Disagrees,
    /// Nothing was compared.
    NothingCompared,
}

impl Outcome {
    /// What it means. A run that compared nothing does not agree.
    pub fn verdict(&self) -> Verdict {
        if self.subjects.iter().any(|tally| tally.finding.is_some()) {
            return Verdict::Disagrees;
        }
        match self.subjects.iter().any(|tally| tally.numbers > 0) {
            true => Verdict::Agrees,
            false => Verdict::NothingCompared,
        }
    }
}

/// Asks `backend` everything; `done` hears of each finished subject.
///
/// # Errors
/// If the backend does not take the number format.
pub fn run(backend: &mut dyn Backend, plan: Plan, mut done: impl FnMut(&Tally)) -> Result<Outcome> {
    check_dtype(backend, plan.dtype)?;
    let mut asking = Asking { backend, dtype: plan.dtype, patience: PATIENCE };
    let mut subjects = Vec::new();
    for subject in Subject::all() {
        let tally = asking.all(subject, plan);
        done(&tally);
        subjects.push(tally);
    }
    let (backend, dtype) = (asking.backend.about().clone(), dtype_name(plan.dtype));
    Ok(Outcome { backend, dtype, seed: plan.seed, subjects })
}

/// Asks one case again.
///
/// # Errors
/// If the backend does not take the number format, or it is no case.
pub fn replay(backend: &mut dyn Backend, case: &Case, dtype: Dtype) -> Result<Outcome> {
    check_dtype(backend, dtype)?;
    let question = case.question(dtype)?;
    let mut tally = Tally { subject: case.subject(), listed: true, ..Tally::default() };
    let asked = Asking { backend, dtype, patience: PATIENCE }.one(&question);
    let problem = tally.count(asked);
    tally.finding = problem.map(|problem| Finding { found_at: 1, case: case.clone(), problem });
    let backend = backend.about().clone();
    Ok(Outcome { backend, dtype: dtype_name(dtype), seed: case.seed(), subjects: vec![tally] })
}

fn check_dtype(backend: &dyn Backend, dtype: Dtype) -> Result<()> {
    let About { name, dtypes, .. } = backend.about();
    let wanted = dtype_name(dtype);
    if dtypes.iter().any(|dtype| dtype == wanted) {
        return Ok(());
    }
    Err(Error::unsupported(format!("the backend {name} does not take {wanted}"))
        .help(format!("give --dtype {}", dtypes.join(" or "))))
}

impl Tally {
    fn count(&mut self, asked: Asked) -> Option<Problem> {
        match asked {
            Asked::Unsupported => self.unsupported += 1,
            Asked::Vague => self.vague += 1,
            Asked::Compared(judgement) => {
                self.cases += 1;
                self.numbers += judgement.compared as u64;
                self.worst = self.worst.max(judgement.worst);
                self.difference = self.difference.max(judgement.difference);
            }
            Asked::Wrong(problem) => return Some(problem),
        }
        None
    }
}

/// A backend that is being asked.
struct Asking<'a> {
    backend: &'a mut dyn Backend,
    dtype: Dtype,
    /// For how long it may still be waited for in vain.
    patience: Duration,
}

impl Asking<'_> {
    fn all(&mut self, subject: Subject, plan: Plan) -> Tally {
        let mut tally = Tally { subject: subject.name(), ..Tally::default() };
        tally.listed = subject.is_listed(self.backend.about());
        if !tally.listed {
            tally.unsupported = plan.cases;
            return tally;
        }
        if self.patience.is_zero() {
            tally.not_asked = plan.cases;
            return tally;
        }
        let mut rng = generator(plan.seed);
        let draws = if subject.is_drawn_again() { EXPANSIONS } else { DRAWS };
        for index in 1..=draws.saturating_mul(plan.cases) {
            let refused = if subject.is_drawn_again() { 0 } else { tally.unsupported };
            if tally.cases + refused == plan.cases {
                break;
            }
            let drawn = subject.random(plan.dtype, &mut rng);
            let Some((case, question)) =
                drawn.and_then(|case| case.question(plan.dtype).map(|q| (case, q))).ok()
            else {
                tally.left_out += 1;
                continue;
            };
            let Some(problem) = tally.count(self.one(&question)) else { continue };
            let (case, problem) = self.shrink((case, problem));
            tally.finding = Some(Finding { found_at: index, case, problem });
            break;
        }
        tally
    }

    fn one(&mut self, question: &Question) -> Asked {
        let start = Instant::now();
        let answer = match self.backend.answer(&question.request()) {
            Ok(answer) => answer,
            Err(Failure::Unsupported(_)) => return Asked::Unsupported,
            Err(Failure::Failed(why)) => {
                self.patience = self.patience.saturating_sub(start.elapsed());
                return Asked::Wrong(Problem::Failure { why });
            }
        };
        match question.judge(&answer, self.dtype) {
            Err(problem) => Asked::Wrong(*problem),
            Ok(_) if question.is_vague() => Asked::Vague,
            Ok(judgement) => Asked::Compared(judgement),
        }
    }

    /// Makes a wrong case small, as long as it stays wrong in the same way.
    fn shrink(&mut self, (case, mut problem): (Case, Problem)) -> (Case, Problem) {
        let start = Instant::now();
        let kind = problem.kind();
        let smallest = case.smallest(|candidate| {
            if start.elapsed() > SHRINKING_LIMIT || self.patience.is_zero() {
                return false;
            }
            let Ok(question) = candidate.question(self.dtype) else { return false };
            match self.one(&question) {
                Asked::Wrong(found) if found.kind() == kind => {
                    problem = found;
                    true
                }
                _ => false,
            }
        });
        (smallest, problem)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ops::Operation;
    use crate::backend::{Answer, Request};

    /// Lists two operations, and takes a while to fail.
    struct Slow(About);

    impl Backend for Slow {
        fn about(&self) -> &About {
            &self.0
        }

        fn answer(&mut self, _: &Request) -> Answer {
            std::thread::sleep(Duration::from_millis(20));
            Err(Failure::Failed("late".into()))
        }
    }

    #[test]
    fn a_backend_that_is_late_again_and_again_is_asked_no_more() {
        let ops = ["linear", "relu"].map(String::from).to_vec();
        let mut backend = Slow(About { dtypes: vec!["f32".into()], ops, ..About::default() });
        let plan = Plan { cases: 9, seed: 0, dtype: Dtype::F32 };
        let patience = Duration::from_millis(50);
        let mut asking = Asking { backend: &mut backend, dtype: plan.dtype, patience };
        let start = Instant::now();
        let tallies = ["linear", "relu"]
            .map(|name| asking.all(Subject::Op(Operation::named(name).unwrap()), plan));
        assert!(start.elapsed() < Duration::from_secs(2));
        assert!(tallies[0].finding.is_some());
        assert_eq!(tallies[1].not_asked, 9);
    }
}
