//! Whole expansions: a small model and the configuration of a larger one to its weights.
//!
//! A case is a random small model of a family that the backend lists under `expand` in its reply to
//! `hello`, and random sizes that it can grow to without loss. Families go by the names of
//! [`Architecture`] in JSON.
//!
//! # What is asked
//!
//! `model` is the small model's folder, as in [`super::forward`], and `config` the file
//! `config.json` of the larger one, in which everything is as it must be: the sizes, the ε of its
//! norms. `source` and `target` are the sizes of both, so that no program has to know the names
//! that families give them:
//!
//! ```json
//! {"hidden": 8, "heads": 2, "kv_heads": 2, "head_dim": 4, "intermediate": 16, "layers": 3,
//!  "experts": null, "insert_after": [1]}
//! ```
//!
//! `insert_after` says for each new layer how many of the source's come before it. It binds where
//! the configuration says something of single layers (a window, a factor on the logits).
//!
//! The answer holds every weight of the larger model under the family's own names, in the number
//! format `dtype`; what the small model stores though it is tied may be left out.
//!
//! A configuration may lack fields: they are at the defaults of transformers, and small cases lack
//! most of them. The sizes may be those of the source. The same request must get the same answer
//! each time, or a replay says nothing: free numbers may follow from a fixed seed.
//!
//! # The rules behind the configuration
//!
//! Its ε is the source's times `k·D_S/D_T`, where `k = ⌊D_T/D_S⌋` is how many whole copies of the
//! `D_S` channels there are among `D_T`: a stream of fewer copies does not fit it. What is left
//! over is the mean of the channels in front of a LayerNorm, and zero in front of an RMSNorm. So
//! `eta = sqrt(k·D_S/D_T)` belongs into the norms' weights. The other rules, from heads and rotary
//! frequencies to tied tables, are in the table of the README and in [`crate::expand`].
//!
//! # What is right
//!
//! Any lossless expansion: the order of copies and whatever losslessness leaves free are the
//! backend's own. So nothing is compared with what [`mod@crate::expand`] makes; the answer is right
//! if the certificate proves that it computes what the small model computes ([`mod@crate::check`]),
//! and wrong in the words of its report if it does not. (That each rule is computed right, number
//! by number, with the free numbers given, is asked by the operations `rule_…` of [`super::ops`].)
//! Units are those of the certificate, of which an entry may be off by 8: a worst entry of 1 here
//! is that far off.
//!
//! Sizes that the backend calls unsupported are counted, and others are drawn.

use super::forward::family_name;
use super::judge::Judgement;
use super::suite::Problem;
use super::{ExpandRequest, Tensors};
use crate::certify::UNITS;
use crate::checkpoint::{Checkpoint, Dtype, Tensor};
use crate::error::{Error, Result};
use crate::expand::{Options, Target, expand};
use crate::model::{Sizes, describe};
use crate::testing::lossless::report_on;
use crate::testing::random::Draw;
use crate::testing::shrink::smallest;
use crate::testing::{Architecture, Models, SourceCase, TargetCase};
use serde::{Deserialize, Serialize};

/// Everything that reproduces one question about an expansion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpandCase {
    /// The small model; its number format is that of the question.
    pub source: SourceCase,
    /// What it grows to. What it says of free choices is not asked for.
    pub target: TargetCase,
}

/// The sizes of a model, as a backend is told them; all counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ToldSizes {
    /// Channels of the residual stream.
    pub hidden: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Neurons of the feed-forward network.
    pub intermediate: usize,
    /// Layers.
    pub layers: usize,
    /// Experts, where there are any.
    pub experts: Option<usize>,
    /// For each new layer, how many of the source's come before it; none of a source.
    pub insert_after: Vec<usize>,
}

impl ToldSizes {
    fn of(sizes: &Sizes, insert_after: &[usize]) -> ToldSizes {
        ToldSizes {
            hidden: sizes.hidden,
            heads: sizes.heads,
            kv_heads: sizes.kv_heads,
            head_dim: sizes.head_dim,
            intermediate: sizes.intermediate,
            layers: sizes.layers,
            experts: sizes.experts.map(|experts| experts.all),
            insert_after: insert_after.to_vec(),
        }
    }
}

impl ExpandCase {
    /// A random case of a family, in number format `dtype`.
    pub fn random(architecture: Architecture, dtype: Dtype, rng: &mut impl Draw) -> ExpandCase {
        let source = SourceCase { dtype, ..SourceCase::random(architecture, rng) };
        let target = TargetCase::random(&source, rng);
        ExpandCase { source, target }
    }

    /// What is asked in this case.
    ///
    /// # Errors
    /// If the case is not legal, or shows nothing.
    pub(super) fn question(&self, dtype: Dtype) -> Result<ExpandRequest> {
        if self.source.dtype != dtype {
            let name = self.source.dtype.config_name();
            let problem = format!("the weights of this case are in {name}");
            return Err(Error::bad_input(problem).field("dtype").help("ask for that format"));
        }
        let layers = self.source.model()?.sizes.layers;
        let behind = vec![layers; self.target.layers.saturating_sub(layers)];
        let insert_after = self.target.insert_after.clone().unwrap_or(behind);
        let target = TargetCase { insert_after: Some(insert_after), ..self.target.clone() };
        let models = Models::build(self.source.clone(), target)?;
        if models.shows_nothing() {
            return Err(Error::bad_input("an expansion of this model shows nothing"));
        }
        let places = models.target_case.insert_after.as_deref().unwrap_or_default();
        Ok(ExpandRequest {
            family: family_name(self.source.architecture),
            dtype,
            config: models.expanded.config().clone(),
            source: ToldSizes::of(&models.source_model.sizes, &[]),
            target: ToldSizes::of(&models.expanded_model.sizes, places),
            model: models.source,
        })
    }

    /// The smallest case found, from this one on, for which `fails` still returns true.
    pub fn smallest(self, mut fails: impl FnMut(&ExpandCase) -> bool) -> ExpandCase {
        let dtype = self.source.dtype;
        let (source, target) = smallest((self.source, self.target), |(source, target)| {
            let case = ExpandCase { source: source.clone(), target: target.clone() };
            case.source.dtype == dtype && fails(&case)
        });
        ExpandCase { source, target }
    }
}

impl ExpandRequest {
    /// What this crate's own expansion makes of it.
    ///
    /// # Errors
    /// If the request holds no model, or cannot be served.
    pub(super) fn expanded(&self) -> Result<Tensors> {
        let sizes = self.target.clone();
        let target = Target {
            hidden: Some(sizes.hidden),
            heads: Some(sizes.heads),
            kv_heads: Some(sizes.kv_heads),
            head_dim: Some(sizes.head_dim),
            intermediate: Some(sizes.intermediate),
            layers: Some(sizes.layers),
            experts: sizes.experts,
        };
        let insert_after = Some(sizes.insert_after);
        let options = Options { target, insert_after, ..Options::default() };
        Ok(expand(&self.model, &describe(&self.model)?, &options)?.tensors().clone())
    }

    /// Judges an answer.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn judge(&self, answer: &Tensors) -> std::result::Result<Judgement, Box<Problem>> {
        let is_other = |tensor: &Tensor| tensor.dtype.is_some_and(|dtype| dtype != self.dtype);
        if let Some((name, other)) = answer.iter().find(|(_, tensor)| is_other(tensor)) {
            let wanted = self.dtype.stored_name();
            let why = format!("`{name}` is {}, not {wanted}", other.format_name());
            return Err(Box::new(Problem::Failure { why }));
        }
        let expanded = Checkpoint::in_memory("the answer", self.config.clone(), answer.clone());
        let report = report_on(&self.model, &expanded)
            .map_err(|error| Box::new(Problem::Failure { why: error.to_string() }))?;
        if !report.passed {
            let (verdict, report) = (report.verdict, report.text());
            return Err(Box::new(Problem::NotLossless { verdict, report }));
        }
        let compared = usize::try_from(report.entries).unwrap_or(usize::MAX);
        Ok(Judgement { compared, worst: report.worst_units / UNITS, ..Judgement::default() })
    }
}
