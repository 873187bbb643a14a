//! Random source models, small enough to run by the hundred.

mod draw;
mod families;
mod weights;

pub use families::Architecture;

use crate::checkpoint::{Checkpoint, Config, Dtype};
use crate::error::{Error, Result};
use crate::model::{Catalog, Family, Model, Sizes, family_of};
use crate::testing::random::Draw;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

/// The name that in-memory configurations and checkpoints go by in messages.
const ORIGIN: &str = "generated model";
/// A larger number than any generated configuration needs.
const SIZE_LIMIT: usize = 1 << 18;
/// More numbers than any generated model needs: a case that asks for more is refused.
const NUMBERS_LIMIT: usize = 1 << 28;

/// How weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightStyle {
    /// Everything random: γ about 1, β and biases of std 0.3, matrices that keep the scale,
    /// embeddings of std 0.5. Hides least.
    Random,
    /// As `Random` with embeddings of std 0.02, where ε shows most.
    SmallEmbeddings,
    /// As libraries initialise: std 0.02, γ = 1, β = b = 0. Hides most mistakes.
    DefaultInit,
    /// As `Random` with matrices and embeddings four times as large.
    Large,
    /// As `Random` with matrices and embeddings a twentieth as large.
    Tiny,
    /// As `Random` with rows of zeros in matrices and biases, as pruning leaves them.
    Zeros,
    /// As `Random` with rows of matrices and biases that repeat the row in front of them: a source
    /// that was itself expanded.
    Repeated,
    /// As `Random` with rows of matrices so much smaller than their neighbours that rounding may
    /// take them from a copy.
    Faint,
    /// As `Random` with each matrix and table times a power of two of its own, from 2⁻⁶ to 2⁶.
    Scales,
}

impl WeightStyle {
    /// All of them.
    pub const ALL: [WeightStyle; 9] = [
        WeightStyle::Random,
        WeightStyle::SmallEmbeddings,
        WeightStyle::DefaultInit,
        WeightStyle::Large,
        WeightStyle::Tiny,
        WeightStyle::Zeros,
        WeightStyle::Repeated,
        WeightStyle::Faint,
        WeightStyle::Scales,
    ];

    /// Mostly `Random`.
    pub(super) fn random(rng: &mut impl Draw) -> WeightStyle {
        match rng.below(15) {
            0 | 1 => WeightStyle::SmallEmbeddings,
            2 => WeightStyle::DefaultInit,
            3 => WeightStyle::Large,
            4 => WeightStyle::Tiny,
            11 => WeightStyle::Faint,
            12 => WeightStyle::Zeros,
            13 => WeightStyle::Repeated,
            14 => WeightStyle::Scales,
            _ => WeightStyle::Random,
        }
    }
}

/// Everything that reproduces one source model: equal cases are equal models.
///
/// Which tensors there are follows from the configuration and from the few names in `stored`; so a
/// case knows nothing of its family, and the model's sizes are read off [`SourceCase::model`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceCase {
    /// The family.
    pub architecture: Architecture,
    /// The configuration as the family's library writes it. A `dtype` in it follows that of the
    /// case.
    pub config: Map<String, Value>,
    /// The stored tensors by which a family recognises optional parts: prefixes of names, heads,
    /// tied tensors that are stored twice.
    pub stored: BTreeSet<String>,
    /// Names and shapes of stored tensors that the model does not read (masks, frequencies).
    pub buffers: BTreeMap<String, Vec<usize>>,
    /// Number format of the weights: `float64`, `float32`, `float16`, `bfloat16`.
    #[serde(with = "dtype_name")]
    pub dtype: Dtype,
    /// How weights are drawn.
    pub weights: WeightStyle,
    /// Seed of the weights.
    pub seed: u64,
}

impl SourceCase {
    /// A random legal case of a family, biased to the edges: sizes of one, a single layer or head,
    /// one key/value head, tiny and large ε, small embeddings, every switch that the family reads.
    pub fn random(architecture: Architecture, rng: &mut impl Draw) -> SourceCase {
        let drawn = architecture.draw(rng);
        let (f64s, f32s) = (Dtype::F64, Dtype::F32);
        SourceCase {
            architecture,
            config: drawn.config,
            stored: drawn.stored,
            buffers: drawn.buffers,
            dtype: rng.pick(&[f64s, f64s, f32s, f32s, Dtype::Bf16, Dtype::F16]),
            weights: WeightStyle::random(rng),
            seed: rng.next_u64() >> 11,
        }
    }

    /// The configuration that the family's library writes for this model.
    pub fn config(&self) -> Config {
        let mut config = Config::new(ORIGIN, self.config.clone());
        for field in ["dtype", "torch_dtype"] {
            if config.get(field).is_some() {
                config.set(field, self.dtype.config_name());
            }
        }
        config
    }

    /// The family that the configuration names.
    ///
    /// # Errors
    /// If there is none.
    pub fn family(&self) -> Result<&'static Family> {
        family_of(&self.config())
    }

    /// The model that the configuration describes, with the tensors that this case stores.
    ///
    /// # Errors
    /// If the case is not legal for its family.
    pub fn model(&self) -> Result<Model> {
        let config = self.config();
        let has = |name: &str| self.stored.contains(name);
        let catalog = Catalog::new(has, |_| Some(self.dtype), self.buffers.keys());
        (family_of(&config)?.describe)(&config, &catalog)
    }

    /// Changes the sizes in the configuration; a new layer is as the last one.
    ///
    /// # Errors
    /// If the case is not legal for its family. Whether the changed one is, [`SourceCase::model`]
    /// tells.
    pub fn resize(&mut self, change: impl FnOnce(&mut Sizes)) -> Result<()> {
        let mut sizes = self.model()?.sizes;
        let last = sizes.layers.saturating_sub(1);
        change(&mut sizes);
        let layers: Vec<usize> = (0..sizes.layers.min(SIZE_LIMIT)).map(|l| l.min(last)).collect();
        let mut config = self.config();
        (family_of(&config)?.configure)(&mut config, &sizes, &layers);
        self.config = config.json().clone();
        Ok(())
    }

    /// The model with its weights, in memory.
    ///
    /// # Errors
    /// If the case is not legal for its family, says a size above 2¹⁸, or asks for more than 2²⁸
    /// numbers.
    pub fn build(&self) -> Result<Checkpoint> {
        let advice = "generated models are for tests: make it smaller";
        for (field, value) in &self.config {
            if let Some(size) = excessive(value) {
                let problem = format!("{size} is more than the {SIZE_LIMIT} that a case may say");
                return Err(Error::bad_input(problem).field(field).help(advice));
            }
        }
        let model = self.model()?;
        let read = model.lenses().into_iter().map(|l| l.rows().saturating_mul(l.cols()));
        let unread =
            self.buffers.values().map(|shape| shape.iter().copied().fold(1, usize::saturating_mul));
        if read.chain(unread).fold(0usize, usize::saturating_add) > NUMBERS_LIMIT {
            return Err(Error::bad_input("the case asks for more than 2²⁸ weights").help(advice));
        }
        Ok(Checkpoint::in_memory(ORIGIN, self.config(), weights::tensors(self, &model)))
    }
}

/// A whole number in `value` that is no size of a generated model.
fn excessive(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().filter(|n| *n > SIZE_LIMIT as u64),
        Value::Array(list) => list.iter().find_map(excessive),
        Value::Object(fields) => fields.values().find_map(excessive),
        _ => None,
    }
}

/// [`Dtype`] by its configuration name.
pub(in crate::testing) mod dtype_name {
    use super::Dtype;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(dtype: &Dtype, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(dtype.config_name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Dtype, D::Error> {
        let name = String::deserialize(from)?;
        [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::Bf16]
            .into_iter()
            .find(|dtype| dtype.config_name() == name)
            .ok_or_else(|| D::Error::custom(format!("unknown number format `{name}`")))
    }
}
