//! What a backend is asked about, and single cases of it.

use super::expand::ExpandCase;
use super::forward::{ForwardCase, ForwardQuestion, family_name};
use super::judge::{Judgement, first_difference, judge};
use super::ops::{OPERATIONS, OpCase, Operation, Right};
use super::suite::Problem;
use super::{About, ExpandRequest, OpRequest, Request, Tensors};
use crate::checkpoint::Dtype;
use crate::error::{Error, Result};
use crate::testing::Architecture;
use crate::testing::random::Draw;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// Everything that reproduces one question.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Case {
    /// Of an operation.
    Op(OpCase),
    /// Of a model.
    Forward(Box<ForwardCase>),
    /// Of an expansion.
    Expand(Box<ExpandCase>),
}

impl<'de> Deserialize<'de> for Case {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(from)?;
        let has = |field| value.get(field).is_some();
        let case = match (has("op"), has("target")) {
            (true, _) => serde_json::from_value(value).map(Case::Op),
            (_, true) => serde_json::from_value(value).map(Box::new).map(Case::Expand),
            _ => serde_json::from_value(value).map(Box::new).map(Case::Forward),
        };
        case.map_err(D::Error::custom)
    }
}

impl Case {
    /// What it is a case of, by name.
    pub fn subject(&self) -> String {
        match self {
            Case::Op(case) => case.op.clone(),
            Case::Forward(case) => Subject::Forward(case.source.architecture).name(),
            Case::Expand(case) => Subject::Expand(case.source.architecture).name(),
        }
    }

    /// What all its random choices follow from.
    pub fn seed(&self) -> u64 {
        match self {
            Case::Op(case) => case.seed,
            Case::Forward(case) => case.source.seed,
            Case::Expand(case) => case.source.seed,
        }
    }

    /// What is asked in this case, and what is right.
    ///
    /// # Errors
    /// If it is no legal case.
    pub(super) fn question(&self, dtype: Dtype) -> Result<Question> {
        match self {
            Case::Op(case) => {
                let operation = Operation::named(&case.op).filter(|_| case.is_legal());
                let operation = operation.ok_or_else(|| {
                    Error::bad_input("this is no case of an operation")
                        .help("give the case as a report of this version shows it")
                })?;
                let request = operation.request(case, dtype);
                let right = operation.right(&request);
                Ok(Question::Op(request, right))
            }
            Case::Forward(case) => case.question(dtype).map(Box::new).map(Question::Forward),
            Case::Expand(case) => case.question(dtype).map(Box::new).map(Question::Expand),
        }
    }

    /// The smallest case found, from this one on, for which `fails` still returns true.
    pub(super) fn smallest(self, mut fails: impl FnMut(&Case) -> bool) -> Case {
        match self {
            Case::Op(case) => Case::Op(case.smallest(|case| fails(&Case::Op(case.clone())))),
            Case::Forward(case) => {
                let fails = |case: &ForwardCase| fails(&Case::Forward(Box::new(case.clone())));
                Case::Forward(Box::new(case.smallest(fails)))
            }
            Case::Expand(case) => {
                let fails = |case: &ExpandCase| fails(&Case::Expand(Box::new(case.clone())));
                Case::Expand(Box::new(case.smallest(fails)))
            }
        }
    }
}

/// Something that random cases are made of.
#[derive(Clone, Copy)]
pub(super) enum Subject {
    Op(&'static Operation),
    Forward(Architecture),
    Expand(Architecture),
}

impl Subject {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Subject> {
        let models = Architecture::ALL.map(Subject::Forward).into_iter();
        let expansions = Architecture::ALL.map(Subject::Expand);
        OPERATIONS.iter().map(Subject::Op).chain(models).chain(expansions)
    }

    /// Its name in reports.
    pub fn name(self) -> String {
        match self {
            Subject::Op(operation) => operation.name.to_string(),
            Subject::Forward(architecture) => format!("forward {}", family_name(architecture)),
            Subject::Expand(architecture) => format!("expand {}", family_name(architecture)),
        }
    }

    /// Whether a backend says that it does it.
    pub fn is_listed(self, about: &About) -> bool {
        match self {
            Subject::Op(operation) => about.ops.iter().any(|name| name == operation.name),
            Subject::Forward(architecture) => about.forward.contains(&family_name(architecture)),
            Subject::Expand(architecture) => about.expand.contains(&family_name(architecture)),
        }
    }

    /// Whether a case that the backend does not do leaves its place to another: of few models all
    /// sizes are served.
    pub fn is_drawn_again(self) -> bool {
        matches!(self, Subject::Expand(_))
    }

    /// A random case.
    ///
    /// # Errors
    /// If what is drawn is not legal.
    pub fn random(self, dtype: Dtype, rng: &mut impl Draw) -> Result<Case> {
        match self {
            Subject::Op(operation) => Ok(Case::Op(OpCase::random(operation, rng))),
            Subject::Forward(architecture) => {
                ForwardCase::random(architecture, dtype, rng).map(Box::new).map(Case::Forward)
            }
            Subject::Expand(architecture) => {
                Ok(Case::Expand(Box::new(ExpandCase::random(architecture, dtype, rng))))
            }
        }
    }
}

/// A question, and what is right.
pub(super) enum Question {
    Op(OpRequest, Right),
    Forward(Box<ForwardQuestion>),
    Expand(Box<ExpandRequest>),
}

impl Question {
    /// What the backend is asked.
    pub fn request(&self) -> Request<'_> {
        match self {
            Question::Op(request, _) => Request::Op(request),
            Question::Forward(question) => Request::Forward(&question.request),
            Question::Expand(request) => Request::Expand(request),
        }
    }

    /// Whether no answer could be told from a right one.
    pub fn is_vague(&self) -> bool {
        match self {
            Question::Op(..) | Question::Expand(_) => false,
            Question::Forward(question) => question.right.is_vague(),
        }
    }

    /// Judges an answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(
        &self,
        answer: &Tensors,
        dtype: Dtype,
    ) -> std::result::Result<Judgement, Box<Problem>> {
        let fail = |why| Box::new(Problem::Failure { why });
        let (judgement, stream) = match self {
            Question::Expand(request) => return request.judge(answer),
            Question::Op(_, right) => (judge(right, answer, dtype).map_err(fail)?, None),
            Question::Forward(question) => {
                let judgement = judge(&question.right, answer, dtype).map_err(fail)?;
                let stream = first_difference(&question.stream, answer, dtype).map_err(fail)?;
                (judgement, stream)
            }
        };
        let place = judgement.place.as_ref().filter(|_| !judgement.agrees());
        match place.or(stream.as_ref()) {
            Some(place) => {
                let (place, units) = (place.clone(), place.units());
                Err(Box::new(Problem::Disagreement { place, units, stream }))
            }
            None => Ok(judgement),
        }
    }
}
