//! What a model reads: in a case, as tensors, and made to fit.

use crate::backend::Tensors;
use crate::checkpoint::{Dtype, Tensor};
use crate::error::{Error, Result};
use crate::forward::Input;
use crate::model::{Input as Read, Model};
use ndarray::{Array2, Array3};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

const IDS: &str = "input_ids";
const MASK: &str = "attention_mask";
const TYPES: &str = "token_type_ids";
const DECODER_IDS: &str = "decoder_input_ids";
const DECODER_MASK: &str = "decoder_attention_mask";
const PIXELS: &str = "pixel_values";

/// An input as JSON: its tensors, of which those that are absent are left out.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Given {
    #[serde(skip_serializing_if = "Option::is_none")]
    input_ids: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attention_mask: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_type_ids: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoder_input_ids: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    decoder_attention_mask: Option<Vec<usize>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pixel_values: Option<Image>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Image {
    shape: [usize; 3],
    values: Vec<f64>,
}

pub(super) fn serialize<S: Serializer>(
    input: &Input,
    to: S,
) -> std::result::Result<S::Ok, S::Error> {
    Given::from(input).serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    from: D,
) -> std::result::Result<Input, D::Error> {
    Given::deserialize(from)?.input().map_err(|e| de::Error::custom(e.to_string()))
}

impl From<&Input> for Given {
    fn from(input: &Input) -> Given {
        let bits = |mask: &Option<Vec<bool>>| {
            mask.as_ref().map(|m| m.iter().map(|b| *b as usize).collect())
        };
        match input {
            Input::Tokens { ids, mask, types, .. } => Given {
                input_ids: Some(ids.clone()),
                attention_mask: bits(mask),
                token_type_ids: types.clone(),
                ..Given::default()
            },
            Input::Pair { ids, mask, decoder_ids, decoder_mask } => Given {
                input_ids: Some(ids.clone()),
                attention_mask: bits(mask),
                decoder_input_ids: Some(decoder_ids.clone()),
                decoder_attention_mask: bits(decoder_mask),
                ..Given::default()
            },
            Input::Image { pixels } => {
                let (channels, height, width) = pixels.dim();
                let values = pixels.iter().copied().collect();
                let image = Image { shape: [channels, height, width], values };
                Given { pixel_values: Some(image), ..Given::default() }
            }
        }
    }
}

impl Given {
    fn input(self) -> Result<Input> {
        let bools = |bits: Option<Vec<usize>>| {
            bits.map(|bits| bits.into_iter().map(|bit| bit == 1).collect::<Vec<bool>>())
        };
        let (mask, decoder_mask) = (bools(self.attention_mask), bools(self.decoder_attention_mask));
        match (self.input_ids, self.decoder_input_ids, self.pixel_values) {
            (Some(ids), None, None) => {
                Ok(Input::Tokens { ids, mask, types: self.token_type_ids, positions: None })
            }
            (Some(ids), Some(decoder_ids), None) => {
                Ok(Input::Pair { ids, mask, decoder_ids, decoder_mask })
            }
            (None, None, Some(Image { shape, values })) => {
                let pixels = Array3::from_shape_vec(shape, values).map_err(|_| {
                    let problem = format!("it has not as many numbers as its shape {shape:?} says");
                    Error::bad_input(problem).field(PIXELS)
                })?;
                Ok(Input::Image { pixels })
            }
            _ => {
                Err(Error::bad_input(format!("the input has neither `{IDS}` nor `{PIXELS}` alone"))
                    .help(format!("give `{IDS}`, or `{IDS}` and `{DECODER_IDS}`, or `{PIXELS}`")))
            }
        }
    }
}

/// The input as tensors.
pub(super) fn tensors(input: &Input, dtype: Dtype) -> Tensors {
    let given = Given::from(input);
    let mut tensors = Tensors::new();
    for (name, numbers) in [
        (IDS, given.input_ids),
        (MASK, given.attention_mask),
        (TYPES, given.token_type_ids),
        (DECODER_IDS, given.decoder_input_ids),
        (DECODER_MASK, given.decoder_attention_mask),
    ] {
        if let Some(numbers) = numbers {
            let shape = vec![numbers.len()];
            let tensor = Tensor::from_integers(shape, numbers.into_iter().map(|n| n as i64));
            tensors.insert(name.to_string(), tensor);
        }
    }
    if let Some(Image { shape, values }) = given.pixel_values {
        let tensor = Tensor::from_values(dtype, shape.to_vec(), values);
        tensors.insert(PIXELS.to_string(), tensor);
    }
    tensors
}

/// The input of which these are the tensors.
///
/// # Errors
/// If they are none.
pub(super) fn read(tensors: &Tensors) -> Result<Input> {
    let whole = |name: &str| {
        let numbers = tensors.get(name).and_then(Tensor::integers);
        numbers.map(|numbers| numbers.into_iter().map(|n| n as usize).collect())
    };
    let image = |tensor: &Tensor| {
        let shape = tensor.shape.clone().try_into().ok()?;
        Some(Image { shape, values: tensor.numbers()? })
    };
    let given = Given {
        input_ids: whole(IDS),
        attention_mask: whole(MASK),
        token_type_ids: whole(TYPES),
        decoder_input_ids: whole(DECODER_IDS),
        decoder_attention_mask: whole(DECODER_MASK),
        pixel_values: tensors.get(PIXELS).and_then(image),
    };
    given.input()
}

/// Numbers of f32 as a tensor.
pub(super) fn matrix(values: &Array2<f32>) -> Tensor {
    let numbers = values.iter().map(|value| f64::from(*value));
    Tensor::from_values(Dtype::F32, values.shape().to_vec(), numbers)
}

/// Which positions of the residual stream are there; all are where there is no mask.
pub(super) fn visible(input: &Input) -> Option<Vec<bool>> {
    match input {
        Input::Tokens { mask, .. } => mask.clone(),
        Input::Pair { decoder_mask, .. } => decoder_mask.clone(),
        Input::Image { .. } => None,
    }
}

/// The input with pixels that every number format holds and that are short in JSON: sixteenths
/// below 8.
pub(super) fn plain_pixels(input: Input) -> Input {
    match input {
        Input::Image { pixels } => {
            let pixels = pixels.mapv(|value| (16.0 * value).round().clamp(-127.0, 127.0) / 16.0);
            Input::Image { pixels }
        }
        tokens => tokens,
    }
}

/// The input, cut to what a smaller model reads.
pub(super) fn fitted(input: &Input, model: &Model) -> Input {
    match (input, model.embedding.input) {
        (Input::Image { pixels }, Read::Image { channels, height, width, .. }) => {
            let pixel = |place| pixels.get(place).copied().unwrap_or(0.0);
            Input::Image { pixels: Array3::from_shape_fn((channels, height, width), pixel) }
        }
        (
            Input::Tokens { ids, mask, types, .. },
            Read::Tokens { vocabulary, positions, types: kinds },
        ) => {
            let count = ids.len().min(positions.unwrap_or(usize::MAX));
            let cut = |list: &[usize], rows: usize| {
                list[..count].iter().map(|id| (*id).min(rows.saturating_sub(1))).collect()
            };
            Input::Tokens {
                ids: cut(ids, vocabulary),
                mask: mask.as_ref().map(|mask| mask[..count].to_vec()),
                types: types.as_ref().filter(|_| kinds > 0).map(|types| cut(types, kinds)),
                positions: None,
            }
        }
        (Input::Pair { ids, mask, decoder_ids, decoder_mask }, Read::Tokens { vocabulary, .. }) => {
            let known = |ids: &[usize]| ids.iter().map(|id| (*id).min(vocabulary - 1)).collect();
            Input::Pair {
                ids: known(ids),
                mask: mask.clone(),
                decoder_ids: known(decoder_ids),
                decoder_mask: decoder_mask.clone(),
            }
        }
        (other, _) => other.clone(),
    }
}
