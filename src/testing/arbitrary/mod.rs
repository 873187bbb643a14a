//! Cases for property tests of your own: strategies for proptest, behind the cargo feature of that
//! name, and `Arbitrary` for quickcheck, behind its.
//!
//! A [`Case`] is a small random architecture of any family with its weights, and sizes and free
//! choices to which it can be expanded without loss; a [`Run`] is one with an input. All are drawn
//! by the generators of [`crate::testing`], and shrink by [`crate::testing::shrink`]: to fewer
//! layers, heads and channels, to plain settings, to fewer tokens. What cannot be built is never
//! offered.
#![cfg_attr(feature = "proptest", doc = include_str!("proptest.md"))]
#![cfg_attr(feature = "quickcheck", doc = include_str!("quickcheck.md"))]

#[cfg(feature = "proptest")]
mod proptest;
#[cfg(feature = "quickcheck")]
mod quickcheck;

#[cfg(feature = "proptest")]
pub use proptest::{Cases, Inputs, Runs, Targets, Tree, cases_of, inputs_of, runs_of, targets_of};

use super::random::{Draw, generator};
use super::shrink::simpler;
use super::{Architecture, Models, SourceCase, TargetCase, inputs};
use crate::error::Result;
use crate::forward::Input;

/// A source, and a target that it can be expanded to without loss.
#[derive(Clone, Debug, PartialEq)]
pub struct Case {
    /// The source: architecture, number format, weights.
    pub source: SourceCase,
    /// Its expansion: sizes, free choices.
    pub target: TargetCase,
}

impl Case {
    /// The case of this seed, of one of `families`.
    ///
    /// # Panics
    /// If there are none.
    pub fn random(families: &[Architecture], seed: u64) -> Case {
        let mut rng = generator(seed);
        let source = SourceCase::random(rng.pick(families), &mut rng);
        let target = TargetCase::random(&source, &mut rng);
        Case { source, target }
    }

    /// Both models with their weights.
    ///
    /// # Errors
    /// If the case is not legal, or the expansion is refused: never for one that was drawn.
    pub fn models(&self) -> Result<Models> {
        Models::build(self.source.clone(), self.target.clone())
    }
}

/// A case, and an input that its models read.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Source and target.
    pub case: Case,
    /// One token, a sequence as long as the model reads or longer than its windows, padding on
    /// either side, token types; an image.
    pub input: Input,
}

impl Run {
    /// The run of this seed, of one of `families`.
    ///
    /// # Panics
    /// If there are none.
    pub fn random(families: &[Architecture], seed: u64) -> Run {
        let case = Case::random(families, seed);
        let input = random_input(&case, &mut generator(!seed));
        Run { case, input }
    }
}

fn random_input(case: &Case, rng: &mut impl Draw) -> Input {
    let inputs = inputs_of_case(case, rng.next_u64());
    rng.pick(&inputs)
}

fn inputs_of_case(case: &Case, seed: u64) -> Vec<Input> {
    case.source.model().map_or(Vec::new(), |model| inputs::random(&model, &mut generator(seed)))
}

/// Smaller values, the boldest steps first; all of them legal.
pub trait Smaller: Clone + std::fmt::Debug + 'static {
    /// They cost less than this value, so that no chain of them is endless.
    fn smaller(&self) -> Box<dyn Iterator<Item = Self>>;
}

impl Smaller for Case {
    fn smaller(&self) -> Box<dyn Iterator<Item = Case>> {
        let pairs = simpler(&(self.source.clone(), self.target.clone()));
        let cases = pairs.map(|(source, target)| Case { source, target });
        Box::new(cases.filter(|case| case.models().is_ok()))
    }
}

impl Smaller for Input {
    fn smaller(&self) -> Box<dyn Iterator<Item = Input>> {
        Box::new(inputs::smaller(self).into_iter())
    }
}

impl Smaller for Run {
    fn smaller(&self) -> Box<dyn Iterator<Item = Run>> {
        let case = self.case.clone();
        let inputs = self.input.smaller().map(move |input| Run { case: case.clone(), input });
        // Another model reads other inputs: any of a smaller one may show the same.
        let cases = self.case.smaller().flat_map(|case| {
            let inputs = inputs_of_case(&case, 0);
            inputs.into_iter().map(move |input| Run { case: case.clone(), input })
        });
        Box::new(inputs.chain(cases))
    }
}
