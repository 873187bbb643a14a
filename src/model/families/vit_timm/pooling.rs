//! What timm makes of the positions in the end: which of them it returns, and behind which norm.

use crate::checkpoint::Config;
use crate::error::Result;

/// What is returned of the positions.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Pool {
    /// The class token.
    Token,
    /// The mean of the patches.
    Patches,
    /// The mean of everything.
    All,
}

/// Where the last norm stands.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum LastNorm {
    /// In front of the pooling: `norm`.
    Stream,
    /// Behind it: `fc_norm`.
    Pooled,
    /// There is none.
    Nowhere,
}

impl Pool {
    /// Reads it from a configuration and from `all` arguments.
    ///
    /// # Errors
    /// If it is not implemented, or the two contradict each other.
    pub fn read(config: &Config, all: &Config) -> Result<Pool> {
        let pool = all.word_or("global_pool", "token")?;
        let pooling = match (pool, all.flag_or("pool_include_prefix", false)?) {
            ("token", _) => Pool::Token,
            ("avg", false) => Pool::Patches,
            ("avg", true) => Pool::All,
            _ => {
                let problem = format!("pooling of type `{pool}` is not implemented");
                return Err(config.unsupported("global_pool", problem));
            }
        };
        let told = config.word_or("global_pool", pool)?;
        if told != pool {
            let problem = format!("`{told}` here contradicts `{pool}`, with which timm builds it");
            return Err(config.unsupported("global_pool", problem));
        }
        Ok(pooling)
    }
}

impl LastNorm {
    /// Reads it: `fc_norm` says whether the last norm stands behind the pooling; by default it does
    /// where means are taken.
    ///
    /// # Errors
    /// If an argument has no usable value.
    pub fn read(all: &Config) -> Result<LastNorm> {
        let mean = all.word_or("global_pool", "token")? == "avg";
        Ok(match (all.flag_or("final_norm", true)?, all.flag_or("fc_norm", mean)?) {
            (false, _) => LastNorm::Nowhere,
            (true, false) => LastNorm::Stream,
            (true, true) => LastNorm::Pooled,
        })
    }
}
