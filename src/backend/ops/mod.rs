//! Single operations: what a backend can be asked for, with random cases and what is right.
//!
//! An [`Operation`] is a line in a table: which sizes and switches its cases have, how a case's
//! tensors are drawn, and the computation in `Bounded` numbers, which gives the right answer and
//! its tolerance at once. Operations of the forward pass are definitions, written again without a
//! look at [`crate::forward`]; those of the rules (`rule_…`) follow the equations that
//! [`crate::expand::rules`] states, with maps as dense matrices.

mod activation;
mod attention;
mod case;
mod embedding;
mod linear;
mod maker;
mod norms;
mod rule_linear;
mod rule_maps;
mod rule_norm;
mod rules;
mod softmax;
mod values;

pub use case::{OpCase, Style};
pub use maker::Maker;
pub(super) use rule_maps::{MEAN, ZERO};
pub use values::{Expected, Inputs, Outputs, Right};

use super::OpRequest;
use super::bound::{Double, Single};
use crate::checkpoint::Dtype;

/// The largest and smallest of a size.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Its name in cases.
    pub name: &'static str,
    /// The smallest that makes sense.
    pub least: usize,
    /// The largest that is drawn.
    pub most: usize,
}

/// What can be asked for.
#[derive(Clone, Copy)]
pub struct Operation {
    /// Its name in requests.
    pub name: &'static str,
    /// The sizes of its cases.
    pub sizes: &'static [Size],
    /// What may be on or off in its cases.
    pub switches: &'static [&'static str],
    /// Draws a case's attributes and tensors.
    make: fn(&mut Maker),
    /// Computes in [`Single`].
    single: fn(&Inputs<Single>) -> Outputs<Single>,
    /// Computes in [`Double`].
    double: fn(&Inputs<Double>) -> Outputs<Double>,
}

const fn size(name: &'static str, least: usize, most: usize) -> Size {
    Size { name, least, most }
}

macro_rules! operations {
    ($($name:literal, $sizes:expr, $switches:expr, $make:path, $compute:path;)*) => {
        /// All operations.
        pub static OPERATIONS: &[Operation] = &[$(Operation {
            name: $name,
            sizes: $sizes,
            switches: $switches,
            make: $make,
            single: $compute,
            double: $compute,
        }),*];
    };
}

const VECTORS: &[Size] = &[size("rows", 1, 9), size("columns", 1, 65)];
const MLP: &[Size] = &[size("rows", 1, 9), size("hidden", 1, 33), size("neurons", 1, 65)];
const ONE_MAP: &[Size] = &[size("source", 1, 9), size("grown", 0, 24), size("columns", 1, 9)];

operations! {
    "linear", &[size("rows", 1, 33), size("in", 1, 65), size("out", 1, 65)], &["bias"],
        linear::make, linear::compute;
    "layer_norm", VECTORS, &["weight", "bias", "large_eps"], norms::make_layer, norms::layer;
    "rms_norm", VECTORS, &["weight", "offset", "large_eps"], norms::make_rms, norms::rms;
    "softmax", VECTORS, &["mask"], softmax::make, softmax::compute;
    "gelu", VECTORS, &[], activation::make, activation::gelu;
    "gelu_tanh", VECTORS, &[], activation::make, activation::gelu_tanh;
    "relu", VECTORS, &[], activation::make, activation::relu;
    "silu", VECTORS, &[], activation::make, activation::silu;
    "tanh", VECTORS, &[], activation::make, activation::tanh;
    "mlp", MLP, &["bias"], activation::make_mlp, activation::mlp;
    "gated_mlp", MLP, &["bias"], activation::make_gated, activation::gated_mlp;
    "embedding", &[size("rows", 1, 65), size("columns", 1, 33), size("tokens", 1, 33)], &["scale"],
        embedding::make, embedding::compute;
    "rotary",
        &[size("tokens", 1, 17), size("heads", 1, 4), size("pairs", 1, 8), size("rest", 0, 5)],
        &["positions"], attention::make_rotary, attention::rotary;
    "attention",
        &[
            size("tokens", 1, 17), size("keys", 1, 17), size("kv_heads", 1, 3), size("group", 1, 3),
            size("head_dim", 1, 17), size("window", 1, 9),
        ],
        &["causal", "windowed", "mask", "softcap", "rotary", "cross"],
        attention::make, attention::compute;
    "rule_linear",
        &[
            size("source_out", 1, 9), size("out_grown", 0, 17), size("source_in", 1, 9),
            size("in_grown", 0, 17), size("out_map", 0, 4), size("in_map", 0, 4),
            size("share", 0, 2),
        ],
        &["initial", "out_scale", "in_scale"], rule_linear::make, rule_linear::linear;
    "rule_cancelling",
        &[
            size("source_out", 1, 9), size("out_grown", 0, 17), size("source_in", 1, 9),
            size("in_grown", 0, 17), size("out_map", 0, 4), size("in_map", 0, 4),
        ],
        &["out_scale", "in_scale"], rule_linear::make_cancelling, rule_linear::cancelling;
    "rule_opposite",
        &[
            size("source_out", 1, 9), size("out_grown", 0, 17), size("source_in", 1, 9),
            size("in_grown", 0, 17), size("out_map", 0, 4), size("in_map", 0, 4),
        ],
        &["out_scale", "in_scale"], rule_linear::make_opposite, rule_linear::opposite;
    "rule_vector",
        &[size("source", 1, 17), size("grown", 0, 33), size("map", 0, 4)],
        &["offset", "map_scale"], rules::make_vector, rules::vector;
    "rule_rows", &[ONE_MAP[0], ONE_MAP[1], ONE_MAP[2], size("map", 0, 4)], &["map_scale"],
        rules::make_rows, rules::rows;
    "rule_columns", &[ONE_MAP[0], ONE_MAP[1], ONE_MAP[2], size("map", 0, 4)], &["map_scale"],
        rules::make_columns, rules::columns;
    "rule_norm", &[size("source", 1, 17), size("grown", 0, 33)],
        &["layer", "offset", "read_scale", "write_scale"], rule_norm::make, rule_norm::norm;
    "rule_norms_in_a_row", &[size("count", 1, 4)], &[], rule_norm::make_row, rule_norm::row;
    "rule_layer_scale", &[size("source", 1, 9), size("grown", 0, 24)], &["average", "map_scale"],
        rule_norm::make_layer_scale, rule_norm::layer_scale;
    "rule_tied_growth", &[size("source", 1, 9), size("grown", 0, 24)],
        &["average", "table_scale", "read_scale"], rules::make_tied, rules::tied;
    "rule_copy_heads",
        &[
            size("kv_heads", 1, 4), size("group", 1, 3), size("more_kv", 0, 4),
            size("to_group", 1, 6),
        ],
        &[], rules::make_heads, rules::heads;
    "rule_rotary_channels",
        &[size("pairs", 1, 4), size("rest", 0, 3), size("factor", 1, 3), size("more_rest", 0, 3)],
        &["shuffled"], rules::make_channels, rules::channels;
}

impl Operation {
    /// The operation of this name.
    pub fn named(name: &str) -> Option<&'static Operation> {
        OPERATIONS.iter().find(|operation| operation.name == name)
    }

    /// What is asked in this case.
    pub fn request(&self, case: &OpCase, dtype: Dtype) -> OpRequest {
        let mut maker = Maker::new(case, dtype);
        (self.make)(&mut maker);
        maker.into_request(self.name)
    }

    /// What is right for this request, and how far an answer may be from it.
    pub fn right(&self, request: &OpRequest) -> Right {
        match request.dtype {
            Dtype::F64 => (self.double)(&Inputs::new(request)).right(request.dtype),
            _ => (self.single)(&Inputs::new(request)).right(request.dtype),
        }
    }
}
