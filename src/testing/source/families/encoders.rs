//! Encoders of text.

use super::super::draw::{ANY_HEAD, Drawn, Rng, Shape, activation, edge, eps, prefix};
use crate::testing::random::Draw;
use serde_json::json;

/// What a BERT is made to return.
#[derive(Clone, Copy, PartialEq)]
enum BertHead {
    Hidden,
    Pooled,
    Words,
    WordsAndNextSentence,
}

pub(super) fn bert(rng: Rng) -> Drawn {
    use BertHead::*;
    let shape = Shape::square(ANY_HEAD, rng);
    let head =
        rng.pick(&[Words, Words, Words, WordsAndNextSentence, Hidden, Hidden, Pooled, Pooled]);
    let words = matches!(head, Words | WordsAndNextSentence);
    let tied = words && rng.chance(0.5);
    let twice = tied && rng.chance(0.2);
    let prefix = prefix("bert.", rng);
    let vocabulary = edge(2, 20, rng);
    let config = json!({
        "add_cross_attention": false,
        "architectures": [match head {
            Hidden | Pooled => "BertModel",
            Words => "BertForMaskedLM",
            WordsAndNextSentence => "BertForPreTraining",
        }],
        "dtype": "float32",
        "hidden_act": activation(rng),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate(rng),
        "is_decoder": false,
        "layer_norm_eps": eps(rng),
        "max_position_embeddings": edge(2, 10, rng),
        "model_type": "bert",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": edge(1, 3, rng),
        "pad_token_id": 0,
        "tie_word_embeddings": tied,
        "type_vocab_size": edge(1, 3, rng),
        "vocab_size": vocabulary,
    });
    let mut drawn = Drawn::new(config, format!("{prefix}embeddings.word_embeddings.weight"));
    drawn.store(rng.chance(0.2), format!("{prefix}embeddings.LayerNorm.gamma"));
    drawn.store(head == Pooled, format!("{prefix}pooler.dense.weight"));
    drawn.store(words, "cls.predictions.transform.dense.weight");
    drawn.store(twice, "cls.predictions.decoder.weight");
    drawn.store(words && (twice || !tied), "cls.predictions.decoder.bias");
    if words && !tied {
        // The library stores the bias that it does not use as well.
        drawn.buffer("cls.predictions.bias", &[vocabulary]);
    }
    drawn
}

/// The Pre-LN form of BERT, of LEMON's own code.
pub(super) fn bert_pre_norm(rng: Rng) -> Drawn {
    let mut drawn = bert(rng);
    let words = drawn.config["architectures"] != json!(["BertModel"]);
    let prefixed = drawn.stored.iter().any(|name| name.starts_with("bert."));
    let prefix = if prefixed { "bert." } else { "" };
    drawn.stored.remove("cls.predictions.transform.dense.weight");
    // There is no norm of the embedding to tell older names by.
    drawn.stored.remove(&format!("{prefix}embeddings.LayerNorm.gamma"));
    drawn.store(true, format!("{prefix}encoder.ln_f.weight"));
    drawn.store(words, "cls.predictions.bias");
    if words {
        drawn.set("architectures", json!(["modBertForMaskedLM"]));
    }
    drawn
}

pub(super) fn roberta(rng: Rng) -> Drawn {
    let shape = Shape::square(ANY_HEAD, rng);
    let (words, pooled) = rng.pick(&[(true, false), (true, false), (false, false), (false, true)]);
    let tied = words && rng.chance(0.5);
    let twice = tied && rng.chance(0.2);
    let prefix = prefix("roberta.", rng);
    let vocabulary = edge(2, 20, rng);
    let padding = rng.below(vocabulary.min(4));
    let config = json!({
        "architectures": [if words { "RobertaForMaskedLM" } else { "RobertaModel" }],
        "dtype": "float32",
        "hidden_act": activation(rng),
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate(rng),
        "layer_norm_eps": eps(rng),
        // Rows in front of the first position, and that many positions.
        "max_position_embeddings": padding + 1 + edge(2, 10, rng),
        "model_type": "roberta",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": edge(1, 3, rng),
        "pad_token_id": padding,
        "tie_word_embeddings": tied,
        "type_vocab_size": edge(1, 3, rng),
        "vocab_size": vocabulary,
    });
    let mut drawn = Drawn::new(config, format!("{prefix}embeddings.word_embeddings.weight"));
    drawn.store(pooled, format!("{prefix}pooler.dense.weight"));
    drawn.store(words, "lm_head.dense.weight");
    drawn.store(twice, "lm_head.decoder.weight");
    drawn.store(words && (twice || !tied), "lm_head.decoder.bias");
    if words && !tied {
        drawn.buffer("lm_head.bias", &[vocabulary]);
    }
    drawn
}

pub(super) fn distilbert(rng: Rng) -> Drawn {
    let shape = Shape::square(ANY_HEAD, rng);
    let words = rng.chance(0.6);
    let tied = words && rng.chance(0.5);
    let prefix = prefix("distilbert.", rng);
    let config = json!({
        "activation": activation(rng),
        "architectures": [if words { "DistilBertForMaskedLM" } else { "DistilBertModel" }],
        "dim": shape.hidden,
        "dtype": "float32",
        "hidden_dim": shape.intermediate(rng),
        "max_position_embeddings": edge(2, 10, rng),
        "model_type": "distilbert",
        "n_heads": shape.heads,
        "n_layers": edge(1, 3, rng),
        "pad_token_id": 0,
        "sinusoidal_pos_embds": rng.chance(0.2),
        "tie_word_embeddings": tied,
        "vocab_size": edge(2, 20, rng),
    });
    let mut drawn = Drawn::new(config, format!("{prefix}embeddings.word_embeddings.weight"));
    drawn.store(words, "vocab_transform.weight");
    drawn.store(tied && rng.chance(0.2), "vocab_projector.weight");
    drawn
}
