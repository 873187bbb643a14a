//! The families that models are made for, a function each, which draws a configuration as the
//! family's library writes it and says which tensors are stored beside those that it implies.

mod decoders;
mod encoders;
mod free_form;
mod images;
mod llamas;
mod t5;

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
    /// Pre-LN decoder, partial rotary, rows fused per head, parallel or not.
    GptNeox, "gpt_neox", decoders::gpt_neox;
    /// Decoder with counted positions, Pre-LN or Post-LN, a narrower token table or not.
    Opt, "opt", decoders::opt;
    /// Parallel decoder behind one norm, partial rotary, a bias on the head.
    Phi, "phi", decoders::phi;
    /// Pre-RMSNorm decoder, rotary, gated, grouped queries.
    Llama, "llama", llamas::llama;
    /// Llama with a window.
    Mistral, "mistral", llamas::mistral;
    /// Llama with biases and windows in some layers.
    Qwen2, "qwen2", llamas::qwen2;
    /// Qwen2 with norms of queries and keys.
    Qwen3, "qwen3", llamas::qwen3;
    /// Llama with a scaled table and norms of 1 + weight.
    Gemma, "gemma", llamas::gemma;
    /// Gemma with norms behind its branches, soft caps and windows.
    Gemma2, "gemma2", llamas::gemma2;
    /// Mistral with experts.
    Mixtral, "mixtral", llamas::mixtral;
    /// Llama with fused rows and partial rotary.
    Phi3, "phi3", llamas::phi3;
    /// Gated decoder with LayerNorms and partial rotary, parallel or not.
    Stablelm, "stablelm", llamas::stablelm;
    /// Llama with LayerNorms that store nothing.
    Olmo, "olmo", llamas::olmo;
    /// Post-LN encoder.
    Bert, "bert", encoders::bert;
    /// Pre-LN encoder with BERT's names.
    BertPreNorm, "bert", encoders::bert_pre_norm;
    /// BERT whose positions count what is no padding.
    Roberta, "roberta", encoders::roberta;
    /// BERT without token types and pooler.
    Distilbert, "distilbert", encoders::distilbert;
    /// Hugging Face's image encoder.
    Vit, "vit", images::vit;
    /// ViT with a distillation token.
    Deit, "deit", images::deit;
    /// timm's image encoders.
    VitTimm, "vit_timm", images::vit_timm;
    /// Encoder and decoder, relative positions, plain or gated; or its encoder alone.
    T5, "t5", t5::t5;
    /// Parts of any kind in any combination.
    FreeForm, "free_form", free_form::free_form;
}
