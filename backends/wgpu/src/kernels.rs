//! The kernels as functions of arrays on the device: what stands in `kernels/*.wgsl`, with the
//! settings that each needs. Shapes have been checked by those who call them; what can go wrong is
//! that an array is too large for the device.

use crate::device::{Array, Device, Grid, Kernel, settings};
use crate::failure::{Failure, Result};

/// Functions of one number, and of two, in the order of `pointwise.wgsl`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    /// GELU with the error function.
    Gelu,
    /// GELU with tanh.
    GeluTanh,
    /// The positive part.
    Relu,
    /// x/(1 + e⁻ˣ).
    Silu,
    /// The hyperbolic tangent.
    Tanh,
    /// cap·tanh(x/cap).
    Softcap,
    /// The product of two.
    Multiply,
    /// The sum of two.
    Add,
    /// eˣ.
    Exponential,
    /// eˣ − 1, for x from 0 on.
    ExponentialLessOne,
    /// erf x.
    ErrorFunction,
    /// sin x.
    Sine,
    /// cos x.
    Cosine,
}

impl Function {
    /// The activation function of this name, in operations or in configurations of models.
    ///
    /// # Errors
    /// If there is none.
    pub fn named(name: &str) -> Result<Function> {
        match name {
            "gelu" => Ok(Function::Gelu),
            "gelu_tanh" | "gelu_new" | "gelu_pytorch_tanh" => Ok(Function::GeluTanh),
            "relu" => Ok(Function::Relu),
            "silu" | "swish" => Ok(Function::Silu),
            "tanh" => Ok(Function::Tanh),
            other => Err(Failure::Unsupported(format!("the function `{other}`"))),
        }
    }
}

/// A function of each number; `parameter` is the cap of a softcap.
pub fn one(device: &Device, function: Function, x: &Array, parameter: f32) -> Result<Array> {
    let settings = settings![x.count(), function as usize, parameter];
    let nothing = device.nothing();
    let grid = Grid::Numbers(x.count());
    device.run(("pointwise", "one"), grid, settings, &[x, nothing], &x.shape)
}

/// A function of the two numbers at each place.
pub fn two(device: &Device, function: Function, x: &Array, z: &Array) -> Result<Array> {
    let settings = settings![x.count(), function as usize, 0.0f32];
    let grid = Grid::Numbers(x.count());
    device.run(("pointwise", "two"), grid, settings, &[x, z], &x.shape)
}

/// Where the entries of a batch of matrices lie, as `matmul.wgsl` says it.
#[derive(Clone, Copy, Debug)]
pub struct Strides {
    /// How many matrices there are.
    pub batch: usize,
    /// What is added up.
    pub inner: usize,
    /// Of the first factor.
    pub a_batch: usize,
    /// Of the first factor.
    pub a_row: usize,
    /// Of the second factor.
    pub b_batch: usize,
    /// How many products one second factor is in.
    pub b_group: usize,
    /// Of the second factor.
    pub b_inner: usize,
    /// Of the second factor.
    pub b_column: usize,
    /// Of the product.
    pub y_batch: usize,
    /// Of the product.
    pub y_row: usize,
}

/// Products of matrices, `[rows, columns]` each, times `scale`; the whole result has `shape`.
pub fn matmul(
    device: &Device,
    (a, b, bias): (&Array, &Array, Option<&Array>),
    (rows, columns): (usize, usize),
    strides: Strides,
    scale: f32,
    shape: &[usize],
) -> Result<Array> {
    let s = strides;
    let settings = settings![
        rows,
        columns,
        s.inner,
        s.a_batch,
        s.a_row,
        s.b_batch,
        s.b_group,
        s.b_inner,
        s.b_column,
        s.y_batch,
        s.y_row,
        bias.is_some(),
        scale,
    ];
    let nothing = device.nothing();
    let inputs = [a, b, bias.unwrap_or(nothing)];
    let grid = Grid::Tiles(rows, columns, s.batch);
    device.run(("matmul", "matmul"), grid, settings, &inputs, shape)
}

/// x Wᵀ + bias, with a weight `[out, in]`; or x W + bias, if it is `transposed` and lies as
/// `[in, out]`.
pub fn linear(
    device: &Device,
    x: &Array,
    weight: &Array,
    bias: Option<&Array>,
    transposed: bool,
) -> Result<Array> {
    let inner = x.columns();
    let (columns, b_inner, b_column) = match transposed {
        true => (weight.columns(), weight.columns(), 1),
        false => (weight.rows(), 1, inner),
    };
    let strides = Strides {
        batch: 1,
        inner,
        a_batch: 0,
        a_row: inner,
        b_batch: 0,
        b_group: 1,
        b_inner,
        b_column,
        y_batch: 0,
        y_row: columns,
    };
    let shape = [x.rows(), columns];
    matmul(device, (x, weight, bias), (shape[0], columns), strides, 1.0, &shape)
}

/// How rows are normalised.
pub struct Norm<'a> {
    /// Whether the mean is taken away.
    pub centred: bool,
    /// `[columns]`.
    pub weight: Option<&'a Array>,
    /// `[columns]`.
    pub bias: Option<&'a Array>,
    /// What is added to the mean square.
    pub eps: f32,
    /// What is added to the weight.
    pub offset: f32,
}

/// LayerNorm or RMSNorm of rows of `columns` numbers each, into which the array is cut.
pub fn norm(device: &Device, x: &Array, columns: usize, norm: &Norm) -> Result<Array> {
    let rows = x.count() / columns.max(1);
    let Norm { centred, weight, bias, eps, offset } = norm;
    let settings = settings![rows, columns, weight.is_some(), bias.is_some(), *eps, *offset];
    let nothing = device.nothing();
    let inputs = [x, weight.unwrap_or(nothing), bias.unwrap_or(nothing)];
    let kernel = ("norm", if *centred { "layer_norm" } else { "rms_norm" });
    device.run(kernel, Grid::Rows(rows), settings, &inputs, &x.shape)
}

/// Which columns a row sees.
#[derive(Clone, Copy, Default)]
pub struct Visible<'a> {
    /// Whole numbers `[columns]`: 1 where a column is seen.
    pub mask: Option<&'a Array>,
    /// Whether none behind the row's token is seen.
    pub causal: bool,
    /// How many are seen in front of it, itself included; all if there is none.
    pub window: Option<usize>,
}

/// Softmax of the rows of x, which belong to tokens 0 to `tokens` − 1, again and again.
pub fn softmax(device: &Device, x: &Array, tokens: usize, visible: Visible) -> Result<Array> {
    let columns = x.shape.last().copied().unwrap_or(1);
    let rows = x.count() / columns.max(1);
    let Visible { mask, causal, window } = visible;
    let settings = settings![rows, columns, tokens, mask.is_some(), causal, window.unwrap_or(0)];
    let nothing = device.nothing();
    let inputs = [x, mask.unwrap_or(nothing)];
    device.run(("softmax", "softmax"), Grid::Rows(rows), settings, &inputs, &x.shape)
}

/// Settings of `positions.wgsl` beside the shape of what is made.
#[derive(Default)]
struct Places {
    scale: f32,
    head_dim: usize,
    pairs: usize,
    has_positions: bool,
    width: usize,
    first: usize,
}

impl Places {
    fn run(
        &self,
        device: &Device,
        entry: &'static str,
        inputs: [&Array; 3],
        shape: [usize; 2],
    ) -> Result<Array> {
        let Places { scale, head_dim, pairs, has_positions, width, first } = *self;
        let settings =
            settings![shape[0], shape[1], scale, head_dim, pairs, has_positions, width, first];
        numbers(device, ("positions", entry), settings, &inputs, &shape)
    }
}

/// Rows of a table, times `scale`.
pub fn embedding(device: &Device, table: &Array, ids: &Array, scale: f32) -> Result<Array> {
    let places = Places { scale, ..Places::default() };
    let nothing = device.nothing();
    places.run(device, "embedding", [table, ids, nothing], [ids.count(), table.columns()])
}

/// So many columns of a matrix, from `first` on.
pub fn slice(device: &Device, x: &Array, first: usize, columns: usize) -> Result<Array> {
    let places = Places { width: x.columns(), first, ..Places::default() };
    let nothing = device.nothing();
    places.run(device, "slice", [x, nothing, nothing], [x.rows(), columns])
}

/// Rotary positions of `[tokens, heads·head_dim]`: 0, 1, 2 … where none are given.
pub fn rotary(
    device: &Device,
    x: &Array,
    frequencies: &Array,
    head_dim: usize,
    positions: Option<&Array>,
) -> Result<Array> {
    let (pairs, has_positions) = (frequencies.count(), positions.is_some());
    let places = Places { head_dim, pairs, has_positions, ..Places::default() };
    let nothing = device.nothing();
    let inputs = [x, positions.unwrap_or(nothing), frequencies];
    places.run(device, "rotary", inputs, [x.rows(), x.columns()])
}

/// Heads of attention.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    /// Of queries.
    pub heads: usize,
    /// Of keys and values.
    pub kv_heads: usize,
    /// Channels of each.
    pub head_dim: usize,
}

/// Attention of queries `[tokens, heads·head_dim]` to keys and values `[keys, kv_heads·head_dim]`:
/// products of all heads at once, softmax, products again.
pub fn attention(
    device: &Device,
    [query, key, value]: [&Array; 3],
    counts: Heads,
    (scale, softcap): (f32, Option<f32>),
    visible: Visible,
) -> Result<Array> {
    let Heads { heads, kv_heads, head_dim } = counts;
    let (tokens, keys) = (query.rows(), key.rows());
    let strides = Strides {
        batch: heads,
        inner: head_dim,
        a_batch: head_dim,
        a_row: heads * head_dim,
        b_batch: head_dim,
        b_group: heads / kv_heads,
        b_inner: 1,
        b_column: kv_heads * head_dim,
        y_batch: tokens * keys,
        y_row: keys,
    };
    let shape = [heads, tokens, keys];
    let mut logits = matmul(device, (query, key, None), (tokens, keys), strides, scale, &shape)?;
    if let Some(cap) = softcap {
        logits = one(device, Function::Softcap, &logits, cap)?;
    }
    let weights = softmax(device, &logits, tokens, visible)?;
    let strides = Strides {
        batch: heads,
        inner: keys,
        a_batch: tokens * keys,
        a_row: keys,
        b_batch: head_dim,
        b_group: heads / kv_heads,
        b_inner: kv_heads * head_dim,
        b_column: 1,
        y_batch: head_dim,
        y_row: heads * head_dim,
    };
    let factors = (&weights, value, None);
    matmul(device, factors, (tokens, head_dim), strides, 1.0, &query.shape)
}

/// A kernel that makes one number of `shape` by invocation.
pub fn numbers(
    device: &Device,
    kernel: Kernel,
    settings: &[u32],
    inputs: &[&Array],
    shape: &[usize],
) -> Result<Array> {
    device.run(kernel, Grid::Numbers(shape.iter().product()), settings, inputs, shape)
}
