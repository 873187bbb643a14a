//! The typed tree that describes a model.
//!
//! A model maps token ids (or an image) to outputs through one residual stream of `sizes.hidden`
//! channels: `embedding`, then `layers`, then for each output its `steps`. Leaves are [`Lens`]es.
//! Every matrix of a [`Linear`] is `[out, in]`, whatever its layout in the file.

use super::Lens;
use std::sync::Arc;

/// A model as its configuration describes it: what is computed from which tensors.
#[derive(Clone, Debug)]
pub struct Model {
    /// The family's `model_type`, such as `gpt2`.
    pub family: &'static str,
    /// The sizes that an expansion may change.
    pub sizes: Sizes,
    /// From token ids or pixels to the residual stream.
    pub embedding: Embedding,
    /// The layers, each a list of sublayers in the order in which they run.
    pub layers: Vec<Vec<Sublayer>>,
    /// What the model returns. Never empty.
    pub outputs: Vec<Output>,
    /// Stored tensors that repeat another one (tied weights stored twice): they must equal it.
    pub aliases: Vec<Alias>,
    /// Stored tensors that are no parameters (masks, position ids, rotary frequencies): by name.
    pub buffers: Vec<String>,
}

/// The sizes of a model that an expansion may change, all counts.
#[derive(Clone, Debug, PartialEq)]
pub struct Sizes {
    /// Channels of the residual stream (hidden size).
    pub hidden: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key/value heads per layer; equal to `heads` without grouped queries.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Neurons of the feed-forward network.
    pub intermediate: usize,
    /// Number of layers.
    pub layers: usize,
    /// The norms' epsilon where the configuration stores it.
    pub norm_eps: Option<f64>,
}

/// A tensor that must be equal to another one.
#[derive(Clone, Debug)]
pub struct Alias {
    /// The stored repetition, such as a tied `lm_head.weight`.
    pub name: String,
    /// The tensor that the model reads, such as the token table.
    pub of: String,
}

/// From the input to the residual stream.
#[derive(Clone, Debug)]
pub struct Embedding {
    /// What goes in.
    pub input: Input,
    /// Tables of rows that are summed, each `[rows, hidden]`.
    pub tables: Vec<Table>,
    /// Image models: the class token, `[1, hidden]`, at position 0.
    pub class_token: Option<Lens>,
    /// Image models: the patch convolution, `[hidden, channels·patch·patch]` with its bias.
    pub patch: Option<Linear>,
    /// A norm that writes the stream (BERT).
    pub norm: Option<Norm>,
}

/// What a model reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Token ids, each below `vocabulary`; at most `positions` of them where a table limits them.
    Tokens {
        /// Rows of the token table.
        vocabulary: usize,
        /// Longest sequence that the position table allows; `None` with rotary positions.
        positions: Option<usize>,
        /// Rows of the token type table; 0 without one.
        types: usize,
    },
    /// An image `[channels, height, width]`, cut into squares of `patch` pixels, row by row.
    Image {
        /// Colour channels.
        channels: usize,
        /// Pixels.
        height: usize,
        /// Pixels.
        width: usize,
        /// Pixels per side of a patch.
        patch: usize,
    },
}

/// A table of embedding rows.
#[derive(Clone, Debug)]
pub struct Table {
    /// What selects the row.
    pub index: TableIndex,
    /// `[rows, hidden]`.
    pub lens: Lens,
}

/// What selects a row of a [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableIndex {
    /// The token id.
    Token,
    /// The position in the sequence (image models: 0 is the class token).
    Position,
    /// The segment (token type) id; 0 where none is given.
    TokenType,
}

/// `y = W x + b`.
#[derive(Clone, Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Lens,
    /// `[out, 1]`.
    pub bias: Option<Lens>,
}

/// A normalisation over the channels of one position.
#[derive(Clone, Debug)]
pub struct Norm {
    /// LayerNorm or RMSNorm.
    pub kind: NormKind,
    /// γ, `[channels, 1]`.
    pub weight: Lens,
    /// β, `[channels, 1]`.
    pub bias: Option<Lens>,
    /// ε, added to the variance (LayerNorm) or mean square (RMSNorm); in squared units of the
    /// stream.
    pub eps: f64,
    /// The configuration field of ε; `None` where the family fixes it in code.
    pub eps_field: Option<&'static str>,
}

/// Which normalisation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `γ·(x − mean)/sqrt(variance + ε) + β`, with the biased variance.
    Layer,
    /// `γ·x/sqrt(mean square + ε)`.
    Rms,
}

/// One step of the residual stream: `x ← post_norm(x + Σ branch(x))`.
#[derive(Clone, Debug)]
pub struct Sublayer {
    /// Branches that read the same `x` (more than one where attention and MLP run in parallel).
    pub branches: Vec<Branch>,
    /// Post-LN: a norm of the sum, which writes the stream.
    pub post_norm: Option<Norm>,
}

/// `op(norm(x))`.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Pre-LN: the norm in front of the op.
    pub norm: Option<Norm>,
    /// Attention or MLP.
    pub op: Op,
}

/// What a branch computes.
#[derive(Clone, Debug)]
pub enum Op {
    /// Multi-head self-attention.
    Attention(Box<Attention>),
    /// Feed-forward network.
    Mlp(Box<Mlp>),
}

/// Multi-head self-attention with `heads` query heads; query head `h` reads key/value head
/// `h / (heads / kv_heads)`.
#[derive(Clone, Debug)]
pub struct Attention {
    /// `[heads·head_dim, hidden]`, head-major.
    pub query: Linear,
    /// `[kv_heads·head_dim, hidden]`, head-major.
    pub key: Linear,
    /// `[kv_heads·head_dim, hidden]`, head-major.
    pub value: Linear,
    /// `[hidden, heads·head_dim]`.
    pub output: Linear,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads; divides `heads`.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Factor on the logits `q·k`, usually `1/sqrt(head_dim)`.
    pub scale: f64,
    /// Whether position `i` sees only positions `≤ i`.
    pub causal: bool,
    /// Rotary position embedding of queries and keys.
    pub rotary: Option<Rotary>,
}

/// Rotary position embedding: at position `p`, channels `i` and `i + head_dim/2` of a head are
/// turned as a pair by the angle `p · frequencies[i]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Radians per position, one for each pair: `[head_dim/2]`.
    pub frequencies: Arc<[f64]>,
}

/// `down(act(up x))`, or `down(act(gate x) ∘ up x)` with a gate.
#[derive(Clone, Debug)]
pub struct Mlp {
    /// `[intermediate, hidden]`.
    pub up: Linear,
    /// `[intermediate, hidden]`.
    pub gate: Option<Linear>,
    /// `[hidden, intermediate]`.
    pub down: Linear,
    /// Applied to the gate's output where there is one, else to `up`'s.
    pub activation: Activation,
}

/// A pointwise function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x·Φ(x)`, with the error function.
    GeluErf,
    /// `½x(1 + tanh(√(2/π)(x + 0.044715x³)))`.
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
    /// `x/(1 + e⁻ˣ)`.
    Silu,
    /// `tanh x`.
    Tanh,
}

/// One thing that the model returns, computed from the residual stream after the last layer.
#[derive(Clone, Debug)]
pub struct Output {
    /// `logits`, `last_hidden_state`, `pooler_output`.
    pub name: &'static str,
    /// Applied in order; none where the stream itself is returned.
    pub steps: Vec<Step>,
    /// Whether the channels are fixed things (words of a vocabulary, classes), so that a lossless
    /// expansion must return the same numbers; else they are hidden channels, and the expanded
    /// model may return a linear image of them.
    pub fixed: bool,
}

/// A step from the stream to an output.
#[derive(Clone, Debug)]
pub enum Step {
    /// Keep position 0 alone (class token).
    First,
    /// Normalise.
    Norm(Norm),
    /// Multiply.
    Linear(Linear),
    /// Apply a pointwise function.
    Activation(Activation),
}
