//! What a certificate says: maps, equations, failures, and what could not be judged.

use super::junction::Junction;
use serde::Serialize;

/// The outcome of holding every equation against the weights of two models.
///
/// It is a proof of losslessness exactly when [`Certificate::proves_lossless`].
#[derive(Clone, Debug, Default, Serialize)]
pub struct Certificate {
    /// The maps from the source's activation spaces to the expanded model's, in words.
    pub maps: Vec<MapInWords>,
    /// Equations held against the weights.
    pub equations: usize,
    /// Entries compared over all equations.
    pub entries: u64,
    /// Largest residual among the equations that hold, in units of its rounding bound.
    pub worst_units: f64,
    /// Whether every residual is exactly zero.
    pub exact: bool,
    /// The smallest relative error of scale, common to all entries of an equation, that the
    /// equations exclude; the worst of them (dimensionless).
    pub resolution: f64,
    /// Equations that fail, in network order; the first is the root.
    pub failures: Vec<Failure>,
    /// What could not be judged, each a reason to be undecided.
    pub unknown: Vec<Unknown>,
    /// Where the residual streams correspond, in network order, of an encoder–decoder the
    /// decoder's; empty where no map between them was found.
    #[serde(skip)]
    pub junctions: Vec<Junction>,
}

impl Certificate {
    /// Whether the equations prove that the two models are equal for every input: at least one was
    /// checked, all hold, and every tensor of both models took part.
    pub fn proves_lossless(&self) -> bool {
        self.equations > 0 && self.failures.is_empty() && self.unknown.is_empty()
    }

    /// Whether all equations but those of ε hold: the two models are equal up to what a wrong ε
    /// makes of them.
    pub fn only_epsilon_fails(&self) -> bool {
        let epsilon = |failure: &Failure| failure.reach == Reach::Epsilon;
        self.equations > 0
            && self.unknown.is_empty()
            && !self.failures.is_empty()
            && self.failures.iter().all(epsilon)
    }
}

/// A map between two activation spaces.
#[derive(Clone, Debug, Serialize)]
pub struct MapInWords {
    /// The space: `hidden`, `neurons`, `heads`, `depth`, an output; `neurons in layers 1, 3` where
    /// layers differ.
    pub space: String,
    /// Such as `384 → 1000: every channel copied 2 times, 232 hold the mean`.
    pub words: String,
}

/// An equation that does not hold.
#[derive(Clone, Debug, Serialize)]
pub struct Failure {
    /// The rule that is broken, such as `fan-out of copied neurons must sum to the source's`.
    pub rule: String,
    /// Where in the network: `layer 3 attention`, counted from 0 in the expanded model.
    pub place: String,
    /// The tensor (or `config.json` field) of the expanded model that is blamed.
    pub tensor: String,
    /// The tensor (or field) of the source that it is held against.
    pub source_tensor: String,
    /// Index of the worst entry in the expanded tensor's own shape; empty for a field.
    pub index: Vec<usize>,
    /// What the source's weights demand there (of the folded quantity that the rule names).
    pub expected: f64,
    /// What the expanded weights give.
    pub got: f64,
    /// The worst residual in units of its rounding bound.
    pub units: f64,
    /// Size of the residual relative to what it is compared with (root mean squares).
    pub relative: f64,
    /// How many entries of the equation are wrong.
    pub wrong: usize,
    /// How many entries the equation has.
    pub entries: usize,
    /// The likely cause in words, if one is known.
    pub cause: Option<String>,
    /// Whether the failure may be rounding all the same: it is less than twice what rounding
    /// explains, or rounding leaves open which channels correspond there, so that others may be
    /// copies of each other than those that do not fit.
    pub doubtful: bool,
    /// An input that reaches the failure, where not every input does.
    pub reach: Reach,
}

/// Which inputs reach a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// Any input.
    Any,
    /// Inputs with this token id.
    Token(usize),
    /// Inputs with a token at this position.
    Position(usize),
    /// Inputs with this token type.
    TokenType(usize),
    /// Inputs of more tokens than this.
    Longer(usize),
    /// Not visible in outputs above storage rounding: an ε.
    Epsilon,
}

/// Something that the certificate cannot judge.
#[derive(Clone, Debug, Serialize)]
pub struct Unknown {
    /// Where: a tensor, a layer, an output.
    pub subject: String,
    /// Why, in words.
    pub reason: String,
}
