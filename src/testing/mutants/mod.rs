//! Deliberate changes of an expansion that is right: mistakes that a checker must find, and
//! changes that leave the function as it was, which it must accept.
//!
//! [`Mutant::intent`] is what the change is meant to be. Whether it truly changes what the model
//! computes depends on the weights (a neuron that never fires may be changed at will), and is to be
//! found by running both models. Where a model returns hidden channels, a mistake in the last norm
//! often leaves a linear image of the source's output, which is lossless in a weaker sense.

mod branches;
mod channels;
pub(super) mod edit;
mod fields;
mod heads;
mod linears;
mod mixed;
mod norms;
mod pair;
mod same;
mod tables;
mod tensors;

pub use edit::Editor;
pub use pair::Pair;

use crate::checkpoint::Checkpoint;
use crate::error::Result;
use crate::testing::random::generator;
use rand_chacha::ChaCha8Rng;

/// What a change is meant to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intent {
    /// The model computes something else.
    Mistake,
    /// The model computes the same.
    Equivalent,
}

/// A changed expansion.
#[derive(Debug)]
pub struct Mutated {
    /// The expansion with the change.
    pub checkpoint: Checkpoint,
    /// The tensor or the configuration field that was changed; the first of several.
    pub subject: String,
}

/// What a change gives: nothing where it does not apply, or changes no byte.
type Change = Result<Option<Mutated>>;
type Apply = fn(&Pair, &mut ChaCha8Rng) -> Change;

macro_rules! mutants {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $intent:ident, $apply:expr;)*) => {
        /// A deliberate change of an expansion.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant { $($(#[$doc])* $variant,)* }

        impl Mutant {
            /// All changes, mistakes first.
            pub const ALL: &'static [Mutant] = &[$(Mutant::$variant),*];

            /// The name by which reports speak of it.
            pub fn name(self) -> &'static str {
                match self { $(Mutant::$variant => $name,)* }
            }

            /// What it is meant to be.
            pub fn intent(self) -> Intent {
                match self { $(Mutant::$variant => Intent::$intent,)* }
            }

            fn change(self) -> Apply {
                match self { $(Mutant::$variant => $apply,)* }
            }
        }
    };
}

mutants! {
    /// The source's ε is kept although the stream is scaled.
    EpsKept, "eps kept", Mistake, norms::eps_kept;
    /// ε is divided by eta² instead of multiplied.
    EpsInverted, "eps inverted", Mistake, norms::eps_inverted;
    /// ε is multiplied by eta instead of eta².
    EpsByEta, "eps times eta", Mistake, norms::eps_by_eta;
    /// γ of one norm lacks the factor eta.
    EtaForgotten, "eta forgotten", Mistake, norms::eta_forgotten;
    /// γ of one norm is divided by eta instead of multiplied.
    EtaInverted, "eta inverted", Mistake, norms::eta_inverted;
    /// One γ is off by 1e-4, or 16 units of rounding.
    GammaOff, "one gamma off", Mistake, norms::gamma_off;
    /// β of one norm is not zero on the residue.
    BetaOnResidue, "beta on the residue", Mistake, norms::beta_on_residue;
    /// γ and β in front of a tied head are not divided by h.
    TiedForgotten, "tied factor forgotten", Mistake, norms::tied_forgotten;
    /// β in front of a tied head is not divided by h; γ is.
    TiedForgottenInBeta, "tied factor forgotten in beta", Mistake, norms::tied_forgotten_in_beta;
    /// The token table is zero-expanded instead of average-expanded.
    TokensZeroExpanded, "tokens zero-expanded", Mistake, tables::tokens_zero_expanded;
    /// The token table is circular-expanded instead of average-expanded.
    TokensCircular, "tokens circular", Mistake, tables::tokens_circular;
    /// The position table is zero-expanded.
    PositionsZeroExpanded, "positions zero-expanded", Mistake, tables::positions_zero_expanded;
    /// A row in front of the patches (class, distillation or register token) is zero-expanded.
    PrefixZeroExpanded, "class or other token zero-expanded", Mistake, tables::prefix_zero_expanded;
    /// The patch convolution is zero-expanded.
    PatchZeroExpanded, "patches zero-expanded", Mistake, tables::patch_zero_expanded;
    /// Every position has the row of the next one.
    PositionsShifted, "positions off by one row", Mistake, tables::positions_shifted;
    /// The factor in code on the token table is taken for that of the source.
    TableScaleForgotten, "table's factor forgotten", Mistake, tables::scale_forgotten;
    /// The factor in code on the tied table, or on what the head reads, is left out of h.
    HeadRatioForgotten, "table's factor forgotten in the head", Mistake, norms::head_ratio_kept;
    /// γ is 1 + w, and w alone is multiplied.
    OffsetForgotten, "1 + w forgotten", Mistake, norms::offset_forgotten;
    /// The last row of the position table is overwritten.
    PositionRowOverwritten, "last position overwritten", Mistake, tables::last_position_overwritten;
    /// The last row of the token table is overwritten.
    TokenRowOverwritten, "last token overwritten", Mistake, tables::last_token_overwritten;
    /// One column that reads a copied neuron or head is 1 + 1e-4 (or 16 units) times too large.
    FanOutSumOff, "fan-out sum off", Mistake, linears::fan_out_sum_off;
    /// Every copy of a neuron has the whole fan-out.
    FanOutNotSplit, "fan-out not split", Mistake, linears::fan_out_not_split;
    /// The fan-outs of two neurons are swapped.
    FanOutsSwapped, "fan-outs swapped", Mistake, linears::fan_outs_swapped;
    /// The bias of the new rows of a layer is zero.
    BiasNotExpanded, "bias not expanded", Mistake, linears::bias_not_expanded;
    /// The bias of copied rows is divided among them as a weight's columns are.
    BiasSplit, "bias split", Mistake, linears::bias_split;
    /// One row that writes the residue is half as large again.
    WriterResidueOff, "writer's average row off", Mistake, linears::writer_residue_off;
    /// An inserted block keeps an output bias.
    InsertedBias, "bias in an inserted block", Mistake, linears::inserted_bias;
    /// One weight is off by 1 %, or 16 units of rounding.
    EntryOff, "one weight off", Mistake, linears::entry_off;
    /// One row of a matrix is negated.
    RowNegated, "row negated", Mistake, linears::row_negated;
    /// One row reads two copies of every channel with opposite weights: rounding is left of it.
    RowCancels, "row cancels", Mistake, linears::row_cancels;
    /// A square matrix is transposed.
    Transposed, "matrix transposed", Mistake, linears::transposed;
    /// Gate and up rows are copied by different maps.
    GateAndUpDiffer, "gate and up maps differ", Mistake, linears::gate_and_up_differ;
    /// Gate and up are swapped.
    GateAndUpSwapped, "gate and up swapped", Mistake, linears::gate_and_up_swapped;
    /// Query and key are swapped.
    QueryKeySwapped, "query and key swapped", Mistake, heads::query_key_swapped;
    /// Query heads are copied in plain circular order across key/value groups.
    HeadsPlainCircular, "heads in plain circular order", Mistake, heads::plain_circular;
    /// Two key/value heads are swapped under their query heads.
    KeyValueHeadsSwapped, "key/value heads swapped", Mistake, heads::key_value_heads_swapped;
    /// The logits of one layer lack the factor for the larger head size.
    LogitScaleForgotten, "logit scale forgotten", Mistake, heads::logit_scale_forgotten;
    /// Under rotary positions, channel pairs stay in place in a larger head.
    RotaryPairsInPlace, "rotary pairs in place", Mistake, heads::rotary_pairs_in_place;
    /// Two heads have each other's column of the relative positions.
    RelativeColumnsSwapped, "relative bias columns swapped", Mistake,
        heads::relative_columns_swapped;
    /// The farthest distances have the relative bias of the nearest.
    RelativeFarthestLost, "relative bias of the farthest lost", Mistake,
        heads::relative_farthest_lost;
    /// Rows of a fused query, key and value are by head instead of by part, or the other way round.
    FusedRows, "fused rows in another order", Mistake, heads::fused_rows_in_other_order;
    /// ε is changed for the stream, and queries and keys, whose norms have the same ε, are not.
    HeadNormEps, "eps of head norms forgotten", Mistake, channels::head_norm_eps_forgotten;
    /// Layers have windows where they had them before others were inserted.
    WindowsInPlace, "layer types in place", Mistake, branches::windows_in_place;
    /// The norm behind an inserted branch is not silent.
    InsertedNorm, "norm of an inserted block", Mistake, branches::inserted_norm;
    /// LayerScale and the rows in front of it are average-expanded each for itself.
    FactorsAveraged, "LayerScale averaged alone", Mistake, branches::factors_averaged;
    /// As many experts are active as in the source, although there are more.
    ActiveExpertsKept, "number of active experts kept", Mistake, branches::active_experts_kept;
    /// One row of a router is half as large again.
    RouterRowOff, "router row off", Mistake, branches::router_row_off;
    /// GPT-2: the divisor by layer index of a moved layer is forgotten.
    LayerIndexForgotten, "layer index forgotten", Mistake, heads::layer_index_forgotten;
    /// One weight is negated.
    EntryNegated, "one weight negated", Mistake, tensors::entry_negated;
    /// One column of a matrix is negated.
    ColumnNegated, "column negated", Mistake, tensors::column_negated;
    /// One row of a matrix is zero.
    RowLost, "row lost", Mistake, tensors::row_lost;
    /// Two rows of a matrix are swapped, and what reads them is not.
    RowsSwapped, "rows swapped", Mistake, tensors::rows_swapped;
    /// All weights of one matrix are off by 1 %, or 16 units of rounding.
    TensorScaled, "tensor scaled", Mistake, tensors::tensor_scaled;
    /// A matrix is zero.
    TensorLost, "tensor lost", Mistake, tensors::tensor_lost;
    /// A matrix is random numbers of the same size, as if it had not been loaded.
    TensorRedrawn, "tensor redrawn", Mistake, tensors::tensor_redrawn;
    /// A matrix was stored in bfloat16 for a while.
    TensorRounded, "tensor rounded to bfloat16", Mistake, tensors::tensor_rounded;
    /// Everything was stored in bfloat16 for a while.
    AllRounded, "all rounded to bfloat16", Mistake, tensors::all_rounded;
    /// A tensor is that of another layer, and the other way round.
    TensorsSwapped, "tensors of two layers swapped", Mistake, tensors::tensors_swapped;
    /// Two layers are in each other's place.
    LayersSwapped, "layers swapped", Mistake, tensors::layers_swapped;
    /// Key and value are swapped.
    KeyValueSwapped, "key and value swapped", Mistake, tensors::key_and_value_swapped;
    /// Two norms have each other's γ and β.
    NormsSwapped, "norms swapped", Mistake, tensors::norms_swapped;
    /// β of one norm is zero.
    BetaLost, "beta lost", Mistake, tensors::beta_lost;
    /// The bias of one layer is negated.
    BiasNegated, "bias negated", Mistake, tensors::bias_negated;
    /// Two tokens have each other's row.
    TokensSwapped, "tokens swapped", Mistake, tensors::tokens_swapped;
    /// The token types are in reverse order.
    TokenTypesSwapped, "token types swapped", Mistake, tensors::token_types_swapped;
    /// Two words or classes have each other's row of an untied head.
    HeadRowsSwapped, "rows of the head swapped", Mistake, tensors::head_rows_swapped;
    /// The last matrix of an inserted block is not zero.
    InsertedWriter, "writer of an inserted block", Mistake, tensors::inserted_writer;
    /// The fan-out of one copy of a neuron is zero, and that of the others as it was.
    NeuronLost, "neuron lost", Mistake, tensors::neuron_lost;
    /// The output matrix reads two heads as each other.
    HeadOutputsSwapped, "outputs of heads swapped", Mistake, tensors::outputs_of_heads_swapped;
    /// Another activation function is configured.
    ActivationReplaced, "activation replaced", Mistake, fields::activation_replaced;
    /// ε is ten times as large.
    EpsTenfold, "eps tenfold", Mistake, fields::eps_tenfold;
    /// The base of rotary frequencies is ten times as large.
    RotaryBaseOff, "rotary base off", Mistake, fields::rotary_base_off;
    /// Rotary positions are counted in halves.
    RotaryPositionsHalved, "rotary positions halved", Mistake, fields::rotary_positions_halved;
    /// Half as many channels turn.
    RotaryShareHalved, "rotary share halved", Mistake, fields::rotary_share_halved;
    /// Every two heads are one of twice the size.
    HeadsMerged, "heads merged", Mistake, fields::heads_merged;
    /// Every head is two of half the size.
    HeadsHalved, "heads halved", Mistake, fields::heads_halved;
    /// A window is one position longer or shorter.
    WindowOff, "window off by one", Mistake, fields::window_off_by_one;
    /// There is no window.
    WindowLost, "window lost", Mistake, fields::window_lost;
    /// A tied head is said to be stored, or a stored one to be tied.
    TyingFlipped, "tying flipped", Mistake, fields::tying_flipped;
    /// The factor on attention's logits is configured otherwise.
    LogitFactorOff, "logit factor off", Mistake, fields::logit_factor_off;
    /// A soft cap is half as large.
    SoftCapOff, "soft cap off", Mistake, fields::soft_cap_off;
    /// Attention and MLP run one after the other instead of side by side, or the other way round.
    ParallelFlipped, "parallel branches flipped", Mistake, fields::parallel_flipped;
    /// T5: what the head reads is scaled where it was not, or the other way round.
    HeadFactorFlipped, "head factor flipped", Mistake, fields::head_factor_flipped;
    /// T5: the distance from which on all are alike is twice as large.
    FarthestDistanceOff, "farthest distance off", Mistake, fields::farthest_distance_off;
    /// A token goes to one expert more or less.
    ActiveExpertsOff, "active experts off by one", Mistake, fields::active_experts_off;
    /// The key bias is random where there is no rotary embedding: it adds the same to all logits
    /// of a query.
    KeyBiasRandom, "key bias random", Equivalent, same::key_bias_random;
    /// γ on the residue is random: the residue normalises to zero.
    GammaOnResidue, "gamma on the residue", Equivalent, same::gamma_on_residue;
    /// Columns of a reader on the residue are random: they read zeros.
    ReaderOnResidue, "reader columns on the residue", Equivalent, same::reader_on_residue;
    /// Neurons are in another order.
    NeuronsPermuted, "neurons permuted", Equivalent, same::neurons_permuted;
    /// Query heads are in another order within their groups, and groups among each other; columns
    /// of relative positions follow.
    HeadsPermuted, "heads permuted", Equivalent, same::heads_permuted;
    /// The channels of the residual stream are in another order everywhere.
    ChannelsPermuted, "channels permuted", Equivalent, channels::channels_permuted;
    /// All that the stream holds is doubled, and ε quadrupled.
    StreamDoubled, "stream doubled", Equivalent, channels::stream_doubled;
    /// One head's relative bias has a constant on top: it adds the same to all logits of a query.
    RelativeShifted, "relative bias shifted", Equivalent, same::relative_shifted;
    /// The value bias is moved into the output bias: attention weights sum to one.
    ValueBiasMoved, "value bias moved", Equivalent, same::value_bias_moved;
    /// A writer adds a constant to all channels, which every LayerNorm takes away.
    WriterShifted, "writer shifted along ones", Equivalent, same::writer_shifted;
    /// A row is added to all tokens and taken from all positions.
    TablesShifted, "constant moved between tables", Equivalent, same::tables_shifted;
    /// Queries doubled and keys halved in one key/value group.
    QueryKeyRescaled, "query and key rescaled", Equivalent, same::query_key_rescaled;
    /// Values doubled and what reads them halved in one key/value group.
    ValueOutputRescaled, "value and output rescaled", Equivalent, same::value_output_rescaled;
    /// A neuron's linear input doubled and its fan-out halved (gated, or ReLU).
    NeuronRescaled, "neuron rescaled", Equivalent, same::neuron_rescaled;
    /// Queries and keys of one key/value group in another basis, inverse to each other.
    QueriesKeysMixed, "queries and keys mixed", Equivalent, mixed::queries_and_keys;
    /// Values of one key/value group in another basis, and what reads them in its inverse.
    ValuesMixed, "values mixed", Equivalent, mixed::values;
    /// Of two copies of a gated neuron, one has what the other lacks of the linear input.
    GatedNeuronsBlended, "gated neurons blended", Equivalent, mixed::gated_neurons;
}

impl Mutant {
    /// Applies the change to a right expansion, where it can be applied and changes any byte. The
    /// same seed makes the same change.
    ///
    /// # Errors
    /// If a tensor cannot be read.
    pub fn apply(self, pair: &Pair, seed: u64) -> Result<Option<Mutated>> {
        (self.change())(pair, &mut generator(seed))
    }
}
