//! From the last vectors to words.

use crate::checkpoint::Config;
use crate::error::Result;
use crate::model::{Alias, Catalog, Lens};

/// The matrix `[vocabulary, n]` that turns vectors into logits, and the stored repetition of it.
///
/// It is the token table where `tie_word_embeddings` says so (then the tensor `name` may repeat
/// it), else the tensor `name`.
///
/// # Errors
/// If `tie_word_embeddings` is neither true nor false.
pub(in crate::model) fn word_matrix(
    config: &Config,
    catalog: &Catalog,
    name: &str,
    token_table: &Lens,
    tied_by_default: bool,
) -> Result<(Lens, Vec<Alias>)> {
    if !config.flag_or("tie_word_embeddings", tied_by_default)? {
        let [rows, cols] = token_table.stored() else { return Ok((token_table.clone(), vec![])) };
        return Ok((Lens::matrix(name, rows.clone(), [cols.clone()]), Vec::new()));
    }
    let repeated =
        catalog.has(name).then(|| Alias { name: name.into(), of: token_table.name().into() });
    Ok((token_table.clone(), repeated.into_iter().collect()))
}
