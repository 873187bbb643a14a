//! Random residual convolutional networks, what to expand them to, and deliberate mistakes.

mod mutants;
pub mod networks;
mod target;
mod weights;

pub use mutants::{CONV_MUTANTS, ConvMutant, ConvPair};
pub use target::ConvTargetCase;

use super::random::Draw;
use super::source::{WeightStyle, dtype_name};
use crate::checkpoint::{Checkpoint, Config, Dtype};
use crate::error::{Error, Result};
use crate::model::Catalog;
use crate::model::convolutional::{ConvNet, convnet_of};
use ndarray::Array3;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The name that generated networks go by in messages.
const ORIGIN: &str = "generated network";
/// More numbers than any generated network needs.
const NUMBERS_LIMIT: usize = 1 << 26;

/// Everything that reproduces one ResNet: equal cases are equal networks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvCase {
    /// The configuration.
    pub config: Map<String, Value>,
    /// The stored tensor by which torchvision's and Hugging Face's names are told apart.
    pub stored: String,
    /// Whether the stem's BatchNorm stores its count of batches, which nothing reads.
    pub counted: bool,
    /// Number format of the weights, by its name in configurations.
    #[serde(with = "dtype_name")]
    pub dtype: Dtype,
    /// How weights are drawn; `small_embeddings` are running variances near ε. Some channels are
    /// dead in any style but that of an initialisation; `zeros`, `repeated` and `scales` are as
    /// `random`.
    pub weights: WeightStyle,
    /// Seed of the weights.
    pub seed: u64,
}

impl ConvCase {
    /// A random legal case: bottlenecks and basic blocks under all names, strides everywhere that a
    /// configuration can put them, stages of a single block, channels from one on.
    pub fn random(rng: &mut impl Draw) -> ConvCase {
        let bottleneck = rng.chance(0.65);
        let stages = rng.between(1, 3);
        let outer = |rng: &mut dyn rand::RngCore| match bottleneck {
            true => 4 * rng.between(1, 4),
            false => rng.between(1, 9),
        };
        let sizes: Vec<usize> = (0..stages).map(|_| outer(rng)).collect();
        let depths: Vec<usize> = (0..stages).map(|_| rng.between(1, 3)).collect();
        let stem = if rng.chance(0.5) { sizes[0] } else { rng.between(1, 7) };
        let mut config = Map::new();
        let mut set = |field: &str, value: Value| config.insert(field.into(), value);
        set("embedding_size", stem.into());
        set("hidden_sizes", json!(sizes));
        set("depths", json!(depths));
        let classes = rng.between(1, 5);
        let torchvision = rng.chance(0.5);
        if torchvision {
            let name = if bottleneck { "resnet50" } else { "resnet18" };
            set("architecture", name.into());
            set("num_classes", classes.into());
            if bottleneck {
                set("width_per_group", rng.pick(&[64, 64, 96, 128]).into());
            }
        } else {
            set("model_type", "resnet".into());
            set("dtype", "float32".into());
            set("layer_type", if bottleneck { "bottleneck" } else { "basic" }.into());
            let label = |class: usize| (class.to_string(), format!("LABEL_{class}").into());
            set("id2label", Value::Object((0..classes).map(label).collect()));
        }
        set("num_channels", rng.pick(&[1, 3, 3]).into());
        set("downsample_in_first_stage", rng.chance(0.3).into());
        set("downsample_in_bottleneck", rng.chance(0.4).into());
        let stem = "embedder.embedder.convolution.weight";
        ConvCase {
            config,
            stored: match torchvision {
                true => "conv1.weight".into(),
                false => format!("{}{stem}", rng.pick(&["resnet.", "resnet.", ""])),
            },
            counted: rng.chance(0.3),
            dtype: rng.pick(&[
                Dtype::F64,
                Dtype::F64,
                Dtype::F32,
                Dtype::F32,
                Dtype::Bf16,
                Dtype::F16,
            ]),
            weights: WeightStyle::random(rng),
            seed: rng.next_u64() >> 11,
        }
    }

    /// The configuration.
    pub fn config(&self) -> Config {
        let mut config = Config::new(ORIGIN, self.config.clone());
        if config.get("dtype").is_some() {
            config.set("dtype", self.dtype.config_name());
        }
        config
    }

    /// The network that the configuration describes.
    ///
    /// # Errors
    /// If the case is not legal.
    pub fn net(&self) -> Result<ConvNet> {
        convnet_of(&self.config(), &self.catalog())
    }

    fn catalog(&self) -> Catalog<'_> {
        Catalog::new(|name| name == self.stored, |_| Some(self.dtype), std::iter::empty())
    }

    /// The network with its weights, in memory.
    ///
    /// # Errors
    /// If the case is not legal, or asks for more than 2²⁶ numbers.
    pub fn build(&self) -> Result<Checkpoint> {
        let net = self.net()?;
        let lenses = net.lenses();
        let numbers = lenses.iter().map(|lens| lens.rows().saturating_mul(lens.cols()));
        if numbers.fold(0, usize::saturating_add) > NUMBERS_LIMIT {
            let advice = "generated networks are for tests: make it smaller";
            return Err(Error::bad_input("the case asks for more than 2²⁶ weights").help(advice));
        }
        Ok(Checkpoint::in_memory(ORIGIN, self.config(), weights::tensors(self, &net)))
    }
}

/// Images that differ in size, without pattern but for the last, which is of one colour.
pub fn random_images(net: &ConvNet, rng: &mut impl Draw) -> Vec<Array3<f64>> {
    let sizes = [(9, 14), (31, 22), (1, 1), (6, 40)];
    let image = |shape| Array3::from_shape_simple_fn(shape, || 2.0 * rng.normal());
    let mut images: Vec<_> = sizes.map(|(h, w)| (net.colours, h, w)).map(image).into();
    images.push(Array3::from_elem((net.colours, 12, 12), rng.normal()));
    images
}
