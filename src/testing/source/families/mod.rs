//! The families that models are made for, a function each, which draws a configuration as the
//! family's library writes it and says which tensors are stored beside those that it implies.

mod decoders;
mod encoders;
mod images;

use super::draw::{Drawn, Rng};
use serde::{Deserialize, Serialize};

macro_rules! architectures {
    ($($(#[$doc:meta])* $variant:ident, $name:literal, $draw:path;)*) => {
        /// The families that cases are made for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Architecture { $($(#[$doc])* $variant,)* }

        impl Architecture {
            /// All of them.
            pub const ALL: [Architecture; [$($name),*].len()] = [$(Architecture::$variant),*];

            /// The family's name in [`crate::model`].
            pub fn name(self) -> &'static str {
                match self { $(Architecture::$variant => $name,)* }
            }

            pub(super) fn draw(self, rng: Rng) -> Drawn {
                match self { $(Architecture::$variant => $draw(rng),)* }
            }
        }
    };
}

architectures! {
    /// Pre-LN decoder, `Conv1D`, fused query, key and value.
    Gpt2, "gpt2", decoders::gpt2;
    /// Post-LN encoder.
    Bert, "bert", encoders::bert;
    /// Pre-RMSNorm decoder, rotary, gated, grouped queries.
    Llama, "llama", decoders::llama;
    /// Hugging Face's image encoder.
    Vit, "vit", images::vit;
    /// timm's image encoder.
    VitTimm, "vit_timm", images::vit_timm;
}
