//! Pairs of models whose trees are changed by hand.

use lemon_check::certify::{Certificate, Failure, Reach, certify};
use lemon_check::checkpoint::{Checkpoint, Dtype, Tensor};
use lemon_check::expand::expand;
use lemon_check::forward::{Input, Outputs, run_batch};
use lemon_check::model::*;
use lemon_check::testing::random::{Draw, generator};
use lemon_check::testing::{Architecture, FreeParts, SourceCase, TargetCase, WeightStyle};
use lemon_check::testing::{Editor, inputs};
use ndarray::Array2;
use serde_json::json;

/// A model with its weights.
pub struct Half {
    pub checkpoint: Checkpoint,
    pub model: Model,
}

impl Clone for Half {
    fn clone(&self) -> Half {
        let (config, tensors) = (self.checkpoint.config().clone(), self.checkpoint.tensors());
        let checkpoint = Checkpoint::in_memory("by hand", config, tensors.clone());
        Half { checkpoint, model: self.model.clone() }
    }
}

/// A source and its expansion: hidden 6 → 15 (2 copies, 3 residue) where nothing else is said.
#[derive(Clone)]
pub struct Pair {
    pub source: Half,
    pub expanded: Half,
}

/// The sizes of a pair.
#[derive(Clone, Copy)]
pub struct Shape {
    pub hidden: usize,
    pub layers: usize,
    pub cancel: bool,
}

impl Default for Shape {
    fn default() -> Self {
        Shape { hidden: 15, layers: 2, cancel: true }
    }
}

/// A model of width 6 with every bias that its family has, and an untied head.
fn source(architecture: Architecture) -> SourceCase {
    let (config, stored) = match architecture {
        Architecture::Llama => (
            json!({
                "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 6,
                "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
                "intermediate_size": 5, "num_hidden_layers": 2, "vocab_size": 11,
                "rms_norm_eps": 1e-3, "rope_theta": 100.0, "attention_bias": true,
                "mlp_bias": true, "hidden_act": "silu", "tie_word_embeddings": false,
            }),
            "model.embed_tokens.weight",
        ),
        Architecture::Gpt2 => (
            json!({
                "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 6,
                "n_head": 2, "n_inner": 5, "n_layer": 2, "n_positions": 16, "vocab_size": 11,
                "layer_norm_epsilon": 1e-3, "activation_function": "gelu",
                "tie_word_embeddings": false,
            }),
            "transformer.wte.weight",
        ),
        Architecture::Vit => (
            json!({
                "model_type": "vit", "architectures": ["ViTForImageClassification"],
                "hidden_size": 6, "num_attention_heads": 2, "intermediate_size": 5,
                "num_hidden_layers": 2, "num_channels": 2, "image_size": 4, "patch_size": 2,
                "layer_norm_eps": 1e-3, "hidden_act": "gelu", "qkv_bias": true,
            }),
            "classifier.weight",
        ),
        other => panic!("no pairs are made of {other:?}"),
    };
    let prefix = "vit.embeddings.cls_token";
    SourceCase {
        architecture,
        config: config.as_object().expect("written as one").clone(),
        stored: [stored, prefix].map(String::from).into(),
        buffers: Default::default(),
        dtype: Dtype::F64,
        weights: WeightStyle::Random,
        seed: 5,
    }
}

impl Pair {
    pub fn new(architecture: Architecture, shape: Shape) -> Pair {
        let source = source(architecture);
        let sizes = source.model().unwrap().sizes;
        let mut target = TargetCase::unchanged(&sizes, FreeParts::Projection, 3);
        let llama = architecture == Architecture::Llama;
        (target.hidden, target.layers, target.cancel) = (shape.hidden, shape.layers, shape.cancel);
        (target.heads, target.kv_heads) = match llama {
            true => (4, 2),
            false => (shape.hidden / 3, shape.hidden / 3),
        };
        target.intermediate = 12;
        // Three layers: the new one stands between the source's two.
        target.insert_after = (shape.layers == 3).then(|| vec![1]);
        let half = |checkpoint: Checkpoint| {
            let model = describe(&checkpoint).unwrap();
            Half { checkpoint, model }
        };
        let source = half(source.build().unwrap());
        let expanded = expand(&source.checkpoint, &source.model, &target.options()).unwrap();
        Pair { expanded: half(expanded), source }
    }

    /// A decoder with RMSNorm, rotary positions and grouped queries: its stream is zero-expanded.
    pub fn llama() -> Pair {
        Pair::new(Architecture::Llama, Shape::default())
    }

    /// A decoder with LayerNorm and position tables: its stream is average-expanded.
    pub fn gpt2() -> Pair {
        Pair::new(Architecture::Gpt2, Shape::default())
    }

    /// Changes both models alike.
    pub fn both(mut self, change: impl Fn(&mut Half)) -> Pair {
        change(&mut self.source);
        change(&mut self.expanded);
        self
    }

    /// Changes the expanded model.
    pub fn but(mut self, change: impl FnOnce(&mut Half)) -> Pair {
        change(&mut self.expanded);
        self
    }

    pub fn certificate(&self) -> Certificate {
        let (source, expanded) = (&self.source, &self.expanded);
        let pair = ((&source.checkpoint, &source.model), (&expanded.checkpoint, &expanded.model));
        certify(pair.0, pair.1, &|_, _| ()).unwrap()
    }

    /// How far outputs are apart, relative to their size.
    pub fn apart(&self) -> f64 {
        let mut rng = generator(9);
        let mut all = inputs::random(&self.source.model, &mut rng);
        all.extend(inputs::covering(&self.source.model, 20, &mut rng));
        let run = |half: &Half, inputs: &[Input]| -> Vec<Outputs<f64>> {
            run_batch(&half.checkpoint, &half.model, inputs).unwrap_or_else(|e| panic!("{e}"))
        };
        let (one, other) = (run(&self.source, &all), run(&self.expanded, &all));
        let (mut apart, mut size) = (0.0f64, 0.0f64);
        for (one, other) in one.iter().zip(&other) {
            let (one, other) = (&one.outputs[0], &other.outputs[0]);
            for (row, _) in one.meaningful.iter().enumerate().filter(|(_, m)| **m) {
                for (a, b) in one.values.row(row).iter().zip(other.values.row(row)) {
                    (apart, size) = (apart.max((a - b).abs()), size.max(a.abs()));
                }
            }
        }
        apart / size
    }

    /// Asserts that the pair is proven, in f64 and rounded to f32, that its outputs agree, and that
    /// each model is proven to equal itself.
    pub fn is_proven(&self) {
        let found = self.certificate();
        assert!(found.proves_lossless(), "{:?}\n{:?}", found.failures.first(), found.unknown);
        let apart = self.apart();
        assert!(apart < 1e-9, "proven, but {apart:e} apart");
        let rounded = self.clone().both(|half| half.round(Dtype::F32)).certificate();
        assert!(rounded.proves_lossless(), "f32: {:?}\n{:?}", rounded.failures, rounded.unknown);
        for half in [&self.source, &self.expanded] {
            let same = Pair { source: half.clone(), expanded: half.clone() };
            let found = same.certificate();
            assert!(found.proves_lossless(), "{:?} {:?}", found.failures, found.unknown);
        }
    }

    /// Asserts that the pair is not proven, in f64 or rounded to f32, though its outputs differ by
    /// little only; gives the first failure.
    pub fn is_caught(&self) -> Failure {
        let apart = self.apart();
        assert!(apart > 1e-9, "the outputs are {apart:e} apart: nothing to catch");
        let rounded = self.clone().both(|half| half.round(Dtype::F32)).certificate();
        assert!(!rounded.proves_lossless(), "proven in f32, but {apart:e} apart");
        let mut found = self.certificate();
        assert!(!found.proves_lossless(), "proven, but {apart:e} apart");
        assert!(!found.failures.is_empty(), "{:?}", found.unknown);
        found.failures.remove(0)
    }

    /// Asserts that nothing but an ε fails, and gives that failure.
    pub fn is_caught_by_epsilon(&self) -> Failure {
        let failure = self.is_caught();
        assert_eq!(failure.reach, Reach::Epsilon, "{failure:?}");
        assert!(self.certificate().only_epsilon_fails());
        failure
    }

    /// Asserts that the pair is not proven, for a reason that contains `words`.
    pub fn is_unknown(&self, words: &str) {
        let found = self.certificate();
        assert!(!found.proves_lossless());
        assert!(found.unknown.iter().any(|u| u.reason.contains(words)), "{:?}", found.unknown);
    }
}

impl Half {
    /// The numbers of a matrix.
    pub fn read(&self, lens: &Lens) -> Array2<f64> {
        lens.read(&self.checkpoint).unwrap()
    }

    /// Changes the numbers of a matrix.
    pub fn edit(&mut self, lens: &Lens, change: impl FnOnce(&mut Array2<f64>)) {
        let mut editor = Editor::new(&self.checkpoint, &self.model);
        editor.edit(lens, change).unwrap();
        self.checkpoint = editor.finish();
    }

    /// Multiplies one number of a matrix by 1.001.
    pub fn spoil(&mut self, lens: &Lens, row: usize, col: usize) {
        self.edit(lens, |matrix| matrix[[row, col]] *= 1.001);
    }

    /// Stores a new matrix in f64.
    pub fn store(&mut self, name: &str, matrix: &Array2<f64>) -> Lens {
        let (rows, cols) = matrix.dim();
        let mut tensors = self.checkpoint.tensors().clone();
        let values = matrix.iter().copied().collect::<Vec<_>>();
        tensors.insert(name.into(), Tensor::from_values(Dtype::F64, vec![rows, cols], values));
        self.set(tensors);
        Lens::matrix(name, Dim::new(rows, "rows"), [Dim::new(cols, "cols")])
    }

    /// Stores a new vector in f64.
    pub fn store_vector(&mut self, name: &str, values: &[f64]) -> Lens {
        let mut tensors = self.checkpoint.tensors().clone();
        let shape = vec![values.len()];
        tensors.insert(name.into(), Tensor::from_values(Dtype::F64, shape, values.to_vec()));
        self.set(tensors);
        Lens::vector(name, Dim::new(values.len(), "size"))
    }

    /// Leaves a tensor out of the file.
    pub fn remove(&mut self, name: &str) {
        let mut tensors = self.checkpoint.tensors().clone();
        tensors.remove(name).expect("it was there");
        self.set(tensors);
    }

    /// Rounds all tensors.
    pub fn round(&mut self, dtype: Dtype) {
        let mut tensors = self.checkpoint.tensors().clone();
        for tensor in tensors.values_mut() {
            let from = tensor.dtype.unwrap();
            let values: Vec<f64> = (0..tensor.len()).map(|i| from.get(tensor.bytes(), i)).collect();
            *tensor = Tensor::from_values(dtype, tensor.shape.clone(), values);
        }
        self.set(tensors);
    }

    fn set(&mut self, tensors: std::collections::BTreeMap<String, Tensor>) {
        let config = self.checkpoint.config().clone();
        self.checkpoint = Checkpoint::in_memory("by hand", config, tensors);
    }

    /// The branches of all layers.
    pub fn branches(&mut self) -> impl Iterator<Item = &mut Branch> {
        self.model.layers.iter_mut().flatten().flat_map(|sublayer| &mut sublayer.branches)
    }

    /// The attention of all layers.
    pub fn attentions(&mut self) -> impl Iterator<Item = &mut Attention> {
        self.branches().filter_map(|branch| match &mut branch.op {
            Op::Attention(attention) => Some(&mut **attention),
            _ => None,
        })
    }

    /// The attention of layer `index`, as it is now.
    pub fn attention(&self, index: usize) -> Attention {
        let mut copy = self.clone();
        copy.attentions().nth(index).unwrap().clone()
    }

    /// The MLP of layer `index`, as it is now.
    pub fn mlp(&self, index: usize) -> Mlp {
        let branches = self.model.layers[index].iter().flat_map(|sublayer| &sublayer.branches);
        let mut mlps = branches.filter_map(|branch| match &branch.op {
            Op::Mlp(mlp) => Some((**mlp).clone()),
            _ => None,
        });
        mlps.next().unwrap()
    }
}

/// A random matrix that depends on its seed alone.
pub fn random(rows: usize, cols: usize, seed: u64) -> Array2<f64> {
    let mut rng = generator(seed);
    Array2::from_shape_simple_fn((rows, cols), || rng.normal())
}

/// Random numbers about 1.
pub fn gains(count: usize, seed: u64) -> Vec<f64> {
    let mut rng = generator(seed);
    (0..count).map(|_| 1.0 + 0.3 * rng.normal()).collect()
}

/// A vector of the source for the expanded model: `factor` times copies, `rest` on the residue.
pub fn copied(values: &[f64], hidden: usize, factor: f64, rest: f64) -> Vec<f64> {
    let whole = hidden / values.len() * values.len();
    let value = |i: usize| if i < whole { factor * values[i % values.len()] } else { rest };
    (0..hidden).map(value).collect()
}

/// `sqrt(k·D_S/D_T)` of a pair.
pub fn eta(small: usize, large: usize) -> f64 {
    ((large / small * small) as f64 / large as f64).sqrt()
}
