//! Strategies for proptest.

use super::{Case, Run, Smaller};
use crate::forward::Input;
use crate::model::Model;
use crate::testing::random::{Draw, generator};
use crate::testing::shrink::simpler;
use crate::testing::{
    Architecture, FreeParts, Models, SourceCase, TargetCase, WeightStyle, inputs,
};
use proptest::arbitrary::{Arbitrary, any};
use proptest::sample::{Select, select};
use proptest::strategy::{NewTree, Strategy, ValueTree};
use proptest::test_runner::TestRunner;

/// A value that shrinks as long as what is tested fails: see [`Smaller`].
pub struct Tree<T> {
    current: T,
    /// The smallest that failed.
    failing: T,
    /// What is smaller than that and not tried yet.
    rest: Box<dyn Iterator<Item = T>>,
}

impl<T: Smaller> Tree<T> {
    fn new(value: T) -> Self {
        Tree { current: value.clone(), failing: value, rest: Box::new(std::iter::empty()) }
    }

    fn next(&mut self) -> bool {
        let next = self.rest.next();
        let more = next.is_some();
        self.current = next.unwrap_or_else(|| self.failing.clone());
        more
    }
}

impl<T: Clone> std::fmt::Debug for Tree<T>
where
    T: std::fmt::Debug,
{
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_tuple("Tree").field(&self.current).finish()
    }
}

impl<T: Smaller> ValueTree for Tree<T> {
    type Value = T;

    fn current(&self) -> T {
        self.current.clone()
    }

    fn simplify(&mut self) -> bool {
        self.failing = self.current.clone();
        self.rest = self.current.smaller();
        self.next()
    }

    fn complicate(&mut self) -> bool {
        self.next()
    }
}

/// A seed, of which all else follows.
fn seed(runner: &mut TestRunner) -> Result<u64, proptest::test_runner::Reason> {
    any::<u64>().new_tree(runner).map(|tree| tree.current())
}

macro_rules! strategies {
    ($($(#[$doc:meta])* $strategy:ident, $value:ident, $of:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug)]
        pub struct $strategy {
            families: Vec<Architecture>,
        }

        $(#[$doc])*
        pub fn $of(families: impl Into<Vec<Architecture>>) -> $strategy {
            $strategy { families: families.into() }
        }

        impl Strategy for $strategy {
            type Tree = Tree<$value>;
            type Value = $value;

            fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
                Ok(Tree::new($value::random(&self.families, seed(runner)?)))
            }
        }

        impl Arbitrary for $value {
            type Parameters = ();
            type Strategy = $strategy;

            fn arbitrary_with((): ()) -> $strategy {
                $of(Architecture::ALL)
            }
        }
    )*};
}

strategies! {
    /// Cases of some families.
    Cases, Case, cases_of;
    /// Cases of some families, each with an input.
    Runs, Run, runs_of;
}

/// Targets of one source.
#[derive(Clone, Debug)]
pub struct Targets {
    source: SourceCase,
}

/// Targets to which `source` can be expanded without loss.
///
/// # Panics
/// When values are drawn, if the source is no legal case.
pub fn targets_of(source: &SourceCase) -> Targets {
    Targets { source: source.clone() }
}

/// A target with its source, which stays as it is.
#[derive(Clone, Debug)]
struct Of {
    source: SourceCase,
    target: TargetCase,
}

impl Smaller for Of {
    fn smaller(&self) -> Box<dyn Iterator<Item = Of>> {
        let source = self.source.clone();
        let pairs = simpler(&(source.clone(), self.target.clone()));
        let same = pairs.filter(move |pair| pair.0 == source);
        let legal =
            same.filter(|(source, target)| Models::build(source.clone(), target.clone()).is_ok());
        Box::new(legal.map(|(source, target)| Of { source, target }))
    }
}

/// A target that shrinks while its source stays as it is.
#[derive(Debug)]
pub struct TargetTree(Tree<Of>);

impl ValueTree for TargetTree {
    type Value = TargetCase;

    fn current(&self) -> TargetCase {
        self.0.current().target
    }

    fn simplify(&mut self) -> bool {
        self.0.simplify()
    }

    fn complicate(&mut self) -> bool {
        self.0.complicate()
    }
}

impl Strategy for Targets {
    type Tree = TargetTree;
    type Value = TargetCase;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let source = self.source.clone();
        let target = TargetCase::random(&source, &mut generator(seed(runner)?));
        Ok(TargetTree(Tree::new(Of { source, target })))
    }
}

/// Inputs of one model.
#[derive(Clone, Debug)]
pub struct Inputs {
    model: Model,
}

/// Inputs that `model` reads; see [`Run::input`].
pub fn inputs_of(model: &Model) -> Inputs {
    Inputs { model: model.clone() }
}

impl Strategy for Inputs {
    type Tree = Tree<Input>;
    type Value = Input;

    fn new_tree(&self, runner: &mut TestRunner) -> NewTree<Self> {
        let mut rng = generator(seed(runner)?);
        let all = inputs::random(&self.model, &mut rng);
        Ok(Tree::new(rng.pick(&all)))
    }
}

macro_rules! choices {
    ($($type:ty: $choices:expr;)*) => {$(
        impl Arbitrary for $type {
            type Parameters = ();
            type Strategy = Select<$type>;

            fn arbitrary_with((): ()) -> Select<$type> {
                select($choices)
            }
        }
    )*};
}

choices! {
    Architecture: Architecture::ALL.to_vec();
    FreeParts: FreeParts::ALL.to_vec();
    WeightStyle: WeightStyle::ALL.to_vec();
}
