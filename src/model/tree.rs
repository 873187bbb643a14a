//! The typed tree that describes a model.
//!
//! A model maps token ids (or an image) to outputs through one residual stream of `sizes.hidden`
//! channels: `embedding`, then `layers`, then for each output its `steps`. An encoder–decoder has
//! a second stream, of its [`Encoder`], which layers read by cross-attention. Leaves are
//! [`Lens`]es. Every matrix of a [`Linear`] is `[out, in]`, whatever its layout in the file.

use super::{Family, Lens, RelativeBias};
use std::sync::Arc;

/// A model as its configuration describes it: what is computed from which tensors.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it is described by.
    pub family: &'static Family,
    /// The sizes that an expansion may change.
    pub sizes: Sizes,
    /// From token ids or pixels to the residual stream.
    pub embedding: Embedding,
    /// The layers, each a list of sublayers in the order in which they run.
    pub layers: Vec<Vec<Sublayer>>,
    /// Encoder–decoder models: the encoder, beside the decoder that the other fields describe.
    pub encoder: Option<Box<Encoder>>,
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
    /// Number of layers; of an encoder–decoder, of the decoder.
    pub layers: usize,
    /// Experts per layer and how many of them a token goes to; `None` without experts.
    pub experts: Option<ExpertCount>,
    /// The norms' epsilon where the configuration stores it.
    pub norm_eps: Option<f64>,
}

/// Experts of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertCount {
    /// How many there are.
    pub all: usize,
    /// How many a token goes to.
    pub active: usize,
}

/// The first half of an encoder–decoder: it reads a sequence of its own, and what its norm writes
/// is what cross-attention reads.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// From token ids to the encoder's residual stream, as wide as the decoder's.
    pub embedding: Embedding,
    /// Its layers.
    pub layers: Vec<Vec<Sublayer>>,
    /// The norm behind the last layer.
    pub norm: Norm,
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
    /// Tables of rows that are summed.
    pub tables: Vec<Table>,
    /// Image models: the rows in front of the patches, each `[n, hidden]`: class token, then
    /// distillation or register tokens.
    pub prefix: Vec<Lens>,
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

/// A table of embedding rows: it adds `projection(scale · row)` to the stream.
#[derive(Clone, Debug)]
pub struct Table {
    /// What selects the row.
    pub index: TableIndex,
    /// `[rows, hidden]`, or `[rows, n]` with a projection of `[hidden, n]`.
    pub lens: Lens,
    /// A factor in code (Gemma: the square root of the hidden size); 1 elsewhere.
    pub scale: f64,
    /// From the table's width to the stream's (OPT's `project_in`).
    pub projection: Option<Linear>,
}

/// What selects a row of a [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableIndex {
    /// The token id.
    Token,
    /// The position in the sequence.
    Position(Positions),
    /// The segment (token type) id; 0 where none is given.
    TokenType,
}

/// How a row of a position table is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Positions {
    /// What is counted to number the positions 0, 1, 2 …
    pub count: Count,
    /// What is added to the number: rows of the table in front of position 0.
    pub offset: usize,
}

/// What numbers the positions of a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Every position.
    All,
    /// Positions that the mask shows: the first of them is 0. Hidden ones get the row in front of
    /// position 0 (OPT).
    Visible,
    /// Positions whose token is not this one (padding): the first of them is 0. Others get the
    /// row in front of position 0 (RoBERTa).
    OtherThan(usize),
    /// Positions behind the first so many, which get no row (image models whose class token has
    /// no position).
    Behind(usize),
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
    /// What is stored of γ, `[channels, 1]`; `None` where γ is 1 (OLMo).
    pub weight: Option<Lens>,
    /// γ = offset + weight: 0, or 1 in Gemma.
    pub offset: f64,
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

/// `scale ∘ post_norm(op(norm(x)))`.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Pre-LN: the norm in front of the op.
    pub norm: Option<Norm>,
    /// Attention, MLP or experts.
    pub op: Op,
    /// A norm of what the op writes (Gemma 2's second norm, Post-Res-Norm).
    pub post_norm: Option<Norm>,
    /// LayerScale: a factor for each channel, `[hidden, 1]`.
    pub scale: Option<Lens>,
}

/// What a branch computes.
#[derive(Clone, Debug)]
pub enum Op {
    /// Multi-head attention.
    Attention(Box<Attention>),
    /// Feed-forward network.
    Mlp(Box<Mlp>),
    /// A mixture of feed-forward networks.
    Experts(Box<Experts>),
}

/// A mixture of experts: a token goes to the `active` experts with the largest router logits; what
/// they write is summed with the softmax of these logits, over the active ones, as weights
/// (Mixtral).
#[derive(Clone, Debug)]
pub struct Experts {
    /// `[experts, hidden]`.
    pub router: Linear,
    /// The experts.
    pub experts: Vec<Mlp>,
    /// How many of them a token goes to.
    pub active: usize,
}

/// Multi-head attention with `heads` query heads; query head `h` reads key/value head
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
    /// Cross-attention: keys and values are made from what the [`Encoder`] returns, not from the
    /// stream. Then it is not causal and has no window, rotary or relative positions.
    pub reads_encoder: bool,
    /// Whether position `i` sees only positions `≤ i`.
    pub causal: bool,
    /// Position `i` sees only positions `> i − window`.
    pub window: Option<Window>,
    /// The logits `l` become `cap·tanh(l/cap)` (Gemma 2).
    pub softcap: Option<f64>,
    /// Norms of each head's queries and keys over its channels, `[head_dim, 1]`, before rotary
    /// positions.
    pub head_norms: Option<Box<HeadNorms>>,
    /// Rotary position embedding of queries and keys.
    pub rotary: Option<Rotary>,
    /// A number for each head and distance, added to the logits.
    pub relative: Option<Box<RelativeBias>>,
}

/// QK-norm: one norm for all query heads, one for all key heads.
#[derive(Clone, Debug)]
pub struct HeadNorms {
    /// Of the queries.
    pub query: Norm,
    /// Of the keys.
    pub key: Norm,
}

/// A sliding window of attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many positions are seen, the own one included.
    pub size: usize,
    /// The configuration field that says which layers have it.
    pub field: &'static str,
}

/// Rotary position embedding: at position `p`, channels `i` and `i + n` of a head, of the `n`
/// frequencies, are turned as a pair by the angle `p · frequencies[i]`. Channels from `2n` on pass
/// unchanged (partial rotary embedding).
#[derive(Clone, Debug, PartialEq)]
pub struct Rotary {
    /// Radians per position, one for each pair: `[n]`, at most `head_dim/2`.
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
    /// [`Activation::GeluTanh`] with √(2/π) written as 0.7978845608 (GPT-NeoX-20B).
    GeluFast,
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
    /// Keep this position alone (0: the class token).
    Position(usize),
    /// The mean of the positions from this one on (global pooling of patches).
    MeanFrom(usize),
    /// Normalise.
    Norm(Norm),
    /// Multiply.
    Linear(Linear),
    /// Apply a pointwise function.
    Activation(Activation),
    /// `x` becomes `cap·tanh(x/cap)` (Gemma 2's final logits).
    Softcap(f64),
    /// Multiply by a number (T5's tied head: `hidden^−½`).
    Scale(f64),
    /// The mean of this and of what these steps make of the stream (DeiT's two heads).
    MeanWith(Vec<Step>),
}
