//! Whole models: a checkpoint and an input to outputs.
//!
//! A case is a random small model of a family that the backend lists under `forward` in its reply
//! to `hello`, and an input that it reads. Families go by the names of [`Architecture`] in JSON;
//! residual convolutional networks are not among them. What is right is what [`crate::forward`]
//! computes.
//!
//! # What is asked
//!
//! `model` is a folder as Hugging Face has it: `config.json` and `model.safetensors`, with weights
//! in the number format `dtype`. It holds another model at each request. The inputs are one
//! example, without a dimension for the batch:
//!
//! | tensor | shape | |
//! | --- | --- | --- |
//! | `input_ids` | `[tokens]` | I64 |
//! | `attention_mask` | `[tokens]` | I64, 0 where there is padding; all are there if it is absent |
//! | `token_type_ids` | `[tokens]` | I64; 0 if it is absent |
//! | `decoder_input_ids`, `decoder_attention_mask` | `[tokens]` | I64, of an encoder–decoder |
//! | `pixel_values` | `[channels, height, width]` | of an image model |
//!
//! Positions are 0, 1, 2 … whatever the mask says, but for families that count tokens.
//!
//! The answer holds the tensors that `returns` lists, `[tokens, channels]` or `[1, channels]`:
//! `logits`, `last_hidden_state`, `pooler_output` and others, as [`Model::outputs`] names them. It
//! may also hold the residual stream: `hidden.0` behind the embedding, `hidden.N` behind layer
//! N − 1, before any last norm, `[tokens, hidden]`. A report then says where it differs first.
//! Rows at padding may hold anything.
//!
//! # How far an answer may be off
//!
//! The reference forward pass is written once for any kind of number. Here it runs in
//! [`Bounded`] numbers, each a value in f64 beside a bound on how far an implementation in the
//! number format may be from it ([`super::bound`]). Weights are stored in that format, so that
//! they have no error; from there each sum, product and function adds what rounding may do, and
//! what came before it is carried through it. So the bound covers every implementation that
//! computes the same definitions, its sums in any order. (A variance as the mean of the squares
//! less the square of the mean is another definition: it cancels, and may be farther off.) Half
//! precision is storage: a backend is held to f32 arithmetic, and to one rounding of what it
//! returns.
//!
//! The bound holds for the worst case, in which all errors add up and none cancels, and every layer
//! multiplies it: that is the price of a tolerance that nobody chose. In f32 right answers rarely
//! come within a tenth of it, and a mistake of a thousandth of the output may stay below it. Where
//! the bounds of all numbers of the outputs are as large as their largest number, a right answer
//! and a wrong one cannot be told apart: such a case is counted as vague and not as compared, and
//! another is drawn. In f32 that is about every second case, in f64, whose bounds are smaller by
//! 2²⁹, hardly any: a backend that computes in f64 too is held to far more in it.

mod given;

use super::bound::{Bounded, Double, Format, Single};
use super::ops::{Expected, Right};
use super::{ForwardRequest, Tensors};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::error::{Error, Result};
use crate::forward::{Input, Outputs, Weights, run_weights};
use crate::model::{Model, describe};
use crate::testing::random::Draw;
use crate::testing::shrink::simpler_sources;
use crate::testing::{Architecture, SourceCase, inputs};
use ndarray::Array2;
use serde::{Deserialize, Serialize};

/// More steps than any case needs.
const STEPS_LIMIT: usize = 300;

/// Everything that reproduces one question about a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardCase {
    /// The model; its number format is that of the question.
    pub source: SourceCase,
    /// What it reads.
    #[serde(with = "given")]
    pub input: Input,
}

/// A question and what is right.
pub(super) struct ForwardQuestion {
    pub request: ForwardRequest,
    /// Of the outputs.
    pub right: Right,
    /// Of the residual stream, layer by layer.
    pub stream: Right,
}

/// The name of a family in `hello` and in requests.
pub fn family_name(architecture: Architecture) -> String {
    let name = serde_json::to_value(architecture).ok();
    name.and_then(|name| name.as_str().map(str::to_string)).unwrap_or_default()
}

impl ForwardCase {
    /// A random case of a family, in number format `dtype`.
    ///
    /// # Errors
    /// If the model that is drawn is not legal.
    pub fn random(
        architecture: Architecture,
        dtype: Dtype,
        rng: &mut impl Draw,
    ) -> Result<ForwardCase> {
        let source = SourceCase { dtype, ..SourceCase::random(architecture, rng) };
        let all = inputs::random(&source.model()?, rng);
        let input = given::plain_pixels(rng.pick(&all));
        Ok(ForwardCase { source, input })
    }

    /// What is asked in this case, and what is right.
    ///
    /// # Errors
    /// If the case is not legal, or a number overflows.
    pub(super) fn question(&self, dtype: Dtype) -> Result<ForwardQuestion> {
        if self.source.dtype != dtype {
            let name = self.source.dtype.config_name();
            let problem = format!("the weights of this case are in {name}");
            return Err(Error::bad_input(problem).field("dtype").help("ask for that format"));
        }
        let checkpoint = self.source.build()?;
        let model = describe(&checkpoint)?;
        let (right, stream) = match dtype {
            Dtype::F64 => self.right::<Double>(&checkpoint, &model)?,
            _ => self.right::<Single>(&checkpoint, &model)?,
        };
        let request = ForwardRequest {
            family: family_name(self.source.architecture),
            dtype,
            inputs: given::tensors(&self.input, dtype),
            returns: model.outputs.iter().map(|output| output.name.to_string()).collect(),
            model: checkpoint,
        };
        Ok(ForwardQuestion { request, right, stream })
    }

    /// The right outputs and the right residual stream.
    fn right<F: Format>(&self, checkpoint: &Checkpoint, model: &Model) -> Result<(Right, Right)> {
        let weights = Weights::new(checkpoint);
        let inputs = std::slice::from_ref(&self.input);
        let ran = run_weights::<Bounded<F>>(&weights, model, inputs)?.pop();
        let Outputs { outputs, hidden } = ran.expect("one for each input");
        let dtype = self.source.dtype;
        let outputs = outputs.into_iter().map(|output| {
            (output.name.to_string(), expected(output.values, &output.meaningful, dtype))
        });
        let shown = given::visible(&self.input);
        let stream = hidden.into_iter().enumerate().map(|(layer, values)| {
            let shown = shown.clone().unwrap_or_else(|| vec![true; values.nrows()]);
            (stream_name(layer), expected(values, &shown, dtype))
        });
        Ok((Right(outputs.collect()), Right(stream.collect())))
    }

    /// The smallest case found, from this one on, for which `fails` still returns true.
    pub fn smallest(self, mut fails: impl FnMut(&ForwardCase) -> bool) -> ForwardCase {
        let (mut best, mut first) = (self, 0);
        for _ in 0..STEPS_LIMIT {
            let mut candidates: Vec<ForwardCase> = Vec::new();
            for candidate in best.simpler() {
                if !candidates.contains(&candidate) {
                    candidates.push(candidate);
                }
            }
            let count = candidates.len();
            // What did not help before the last step rarely helps behind it: that comes last.
            let mut order = (0..count).map(|place| (first + place) % count);
            match order.find(|place| fails(&candidates[*place])) {
                Some(place) => (best, first) = (candidates.swap_remove(place), place),
                None => break,
            }
        }
        best
    }

    /// The cases that are one step simpler, the boldest steps first. Some are not legal.
    fn simpler(&self) -> impl Iterator<Item = ForwardCase> + use<> {
        let ForwardCase { source, input } = self.clone();
        let smaller_inputs = inputs::smaller(&input);
        let sources = simpler_sources(&source);
        let dtype = source.dtype;
        let smaller_models =
            sources.filter(move |source| source.dtype == dtype).filter_map(move |source| {
                let input = given::fitted(&input, &source.model().ok()?);
                Some(ForwardCase { source, input })
            });
        let with = move |input| ForwardCase { source: source.clone(), input };
        smaller_inputs.into_iter().map(with).chain(smaller_models)
    }
}

impl ForwardRequest {
    /// What this crate's own forward pass returns in f32, with the residual stream.
    ///
    /// # Errors
    /// If the request holds no model, or an input that it does not read.
    pub(super) fn computed_in_single(&self) -> Result<Tensors> {
        let model = describe(&self.model)?;
        let input = given::read(&self.inputs)?;
        let ran = run_weights::<f32>(&Weights::new(&self.model), &model, &[input])?.pop();
        let Outputs { outputs, hidden } = ran.expect("one for each input");
        let stream = hidden.into_iter().enumerate().map(|(l, values)| (stream_name(l), values));
        let outputs = outputs.into_iter().map(|output| (output.name.to_string(), output.values));
        Ok(outputs.chain(stream).map(|(name, values)| (name, given::matrix(&values))).collect())
    }
}

/// The name of the residual stream in front of layer `layer`.
fn stream_name(layer: usize) -> String {
    format!("hidden.{layer}")
}

/// What is expected, where rows that are not `shown` may be anything.
fn expected<F: Format>(values: Array2<Bounded<F>>, shown: &[bool], dtype: Dtype) -> Expected {
    let shape = values.shape().to_vec();
    let numbers = values.outer_iter().zip(shown).flat_map(|(row, shown)| {
        let hidden = (!shown).then(Bounded::unknown);
        row.iter().map(|value| hidden.unwrap_or(*value)).collect::<Vec<_>>()
    });
    Expected::numbers(shape, numbers.collect(), dtype)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::random::generator;

    fn cases(architecture: Architecture) -> Vec<ForwardCase> {
        let mut rng = generator(0);
        (0..60).map(|_| ForwardCase::random(architecture, Dtype::F32, &mut rng).unwrap()).collect()
    }

    #[test]
    fn cases_are_plain_data_and_ask_the_same_again() {
        for architecture in Architecture::ALL {
            for case in &cases(architecture)[..5] {
                let text = serde_json::to_string(case).unwrap();
                let read: ForwardCase = serde_json::from_str(&text).unwrap();
                assert_eq!(read, *case, "{text}");
                let inputs = given::tensors(&case.input, Dtype::F32);
                assert_eq!(given::read(&inputs).unwrap(), case.input, "{text}");
            }
        }
    }

    #[test]
    fn deep_models_are_compared_too() {
        for architecture in [Architecture::Gpt2, Architecture::Llama, Architecture::Bert] {
            let deep = |case: &&ForwardCase| case.source.model().unwrap().sizes.layers == 3;
            let cases = cases(architecture);
            let told = cases.iter().filter(deep).filter(|case| {
                let question = case.question(Dtype::F32);
                question.is_ok_and(|question| !question.right.is_vague())
            });
            assert!(told.count() >= 3, "{architecture:?}");
        }
    }

    #[test]
    fn a_model_gets_as_small_as_it_can() {
        let case = cases(Architecture::Llama).swap_remove(1);
        let smallest = case.smallest(|case| case.question(Dtype::F32).is_ok());
        let sizes = smallest.source.model().unwrap().sizes;
        assert_eq!([sizes.layers, sizes.hidden, sizes.heads, sizes.intermediate], [1; 4]);
        assert_eq!(smallest.input, Input::tokens([0]));
    }

    #[test]
    fn a_simpler_model_of_images_reads_no_larger_ones() {
        let size = |case: &ForwardCase| {
            let model = case.source.model().unwrap();
            let crate::model::Input::Image { height, width, .. } = model.embedding.input else {
                return 0;
            };
            let weights = model.lenses().into_iter().map(|lens| lens.rows() * lens.cols());
            height * width + weights.sum::<usize>()
        };
        let mut compared = 0;
        for case in cases(Architecture::VitTimm) {
            let sizes: Vec<usize> = case.simpler().map(|simpler| size(&simpler)).collect();
            let largest = size(&case) + case.source.model().unwrap().sizes.layers;
            assert!(sizes.iter().all(|size| *size <= largest), "{case:?}");
            compared += sizes.len();
        }
        assert!(compared > 1000, "{compared}");
    }
}
