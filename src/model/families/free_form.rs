//! Free form: a Transformer over token ids whose parts the configuration names one by one, for
//! models of one's own that no library writes, and for tests of every combination.
//!
//! | field | what it says | default |
//! | --- | --- | --- |
//! | `norm` | `layer` or `rms` | `layer` |
//! | `norm_weight`, `norm_bias` | whether norms store γ, β | `true`; `norm` is `layer` |
//! | `norm_plus_one` | γ is 1 + what is stored | `false` |
//! | `norm_place` | `pre`, `post`, `sandwich` (both), `parallel` (at once) | `pre` |
//! | `head_norm` | norms of each head's queries and keys: `layer`, `rms` or null | null |
//! | `rotary_dims`, `rope_theta` | channels of a head that are turned, the base | none, 10000 |
//! | `position_table` | rows of a table of positions | none |
//! | `causal`, `sliding_window` | what attention sees | `true`, null |
//! | `attention_softcap`, `logit_softcap` | caps on logits | null |
//! | `hidden_act`, `gated` | the MLP | `gelu`, `false` |
//! | `qkv_bias`, `output_bias`, `mlp_bias`, `layer_scale` | which vectors are stored | `false` |
//! | `tie_word_embeddings` | whether the head is the token table | `false` |
//!
//! Sizes have Llama's names, ε is `norm_eps`. Tensors: `tokens`, `positions`, `norm`, `head`, and
//! in `layers.0.attention`, `layers.0.mlp`: `norm`, `out_norm`, `query`, `key`, `value`, `output`,
//! `query_norm`, `key_norm`, `gate`, `up`, `down`, `scale`.

use super::{Catalog, Family, Fields};
use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::parts::decoder::{self, set_sizes};
use crate::model::parts::free_form::{FreeForm, Place, cap};
use crate::model::*;

pub(super) static FREE_FORM: Family = Family {
    name: "free_form",
    fields: Fields { norm_eps: Some("norm_eps"), ..decoder::FIELDS },
    describe,
    configure: |config, sizes, _| set_sizes(config, &FREE_FORM.fields, sizes),
};

fn describe(config: &Config, _: &Catalog) -> Result<Model> {
    let free = FreeForm::read(config, &FREE_FORM)?;
    let (vocabulary, positions) = (
        Dim::new(config.size("vocab_size")?, "vocab_size"),
        config.size_opt("position_table")?.unwrap_or(0),
    );
    let tokens = Lens::matrix("tokens", vocabulary.clone(), [free.hidden.clone()]);
    let mut tables = vec![Table::plain(TableIndex::Token, tokens.clone())];
    if positions > 0 {
        let rows = Dim::new(positions, "position_table");
        tables.push(Table::positions(Lens::matrix("positions", rows, [free.hidden.clone()])));
    }
    let positions = (positions > 0).then_some(positions);
    let input = Input::Tokens { vocabulary: vocabulary.size, positions, types: 0 };
    let post = free.place == Place::Post;
    let layers: Result<Vec<_>> = (0..free.sizes.layers).map(|layer| free.layer(layer)).collect();
    let mut steps = if post { Vec::new() } else { vec![Step::Norm(free.norm("norm")?)] };
    let base = is_architecture(config, "FreeFormModel")?;
    if !base {
        let weight = match config.flag_or("tie_word_embeddings", false)? {
            true => tokens,
            false => Lens::matrix("head", vocabulary, [free.hidden.clone()]),
        };
        steps.push(Step::Linear(Linear { weight, bias: None }));
        steps.extend(cap(config, "logit_softcap")?.map(Step::Softcap));
    }
    let name = if base { "last_hidden_state" } else { "logits" };
    let norm = if post { Some(free.norm("norm")?) } else { None };
    Ok(Model {
        family: &FREE_FORM,
        embedding: Embedding { norm, ..Embedding::of_tables(input, tables) },
        layers: layers?,
        encoder: None,
        outputs: vec![Output { name, steps, fixed: !base }],
        aliases: Vec::new(),
        buffers: Vec::new(),
        sizes: free.sizes,
    })
}
