//! The generators make only legal models, and reach what they are meant to reach.

use lemon_check::model::describe;
use lemon_check::testing::random::generator;
use lemon_check::testing::source::ImageCase;
use lemon_check::testing::{Architecture, Head, SourceCase, WeightStyle};
use std::collections::BTreeMap;

const CASES: u64 = 300;

fn cases(architecture: Architecture) -> impl Iterator<Item = SourceCase> {
    (0..CASES).map(move |seed| SourceCase::random(architecture, &mut generator(seed)))
}

#[test]
fn every_random_case_is_a_model_without_strangers() {
    for architecture in Architecture::ALL {
        for case in cases(architecture) {
            let shown = || serde_json::to_string(&case).unwrap();
            let checkpoint = case.build().unwrap_or_else(|e| panic!("{e}\n{}", shown()));
            let model = describe(&checkpoint).unwrap_or_else(|e| panic!("{e}\n{}", shown()));
            assert_eq!(model.family, architecture.name());
            assert_eq!(model.strangers(&checkpoint), [""; 0], "{}", shown());
            let sizes = &model.sizes;
            let got = (sizes.hidden, sizes.heads, sizes.kv_heads, sizes.head_dim);
            assert_eq!(got, (case.hidden, case.heads, case.kv_heads, case.head_dim), "{}", shown());
            assert_eq!((sizes.intermediate, sizes.layers), (case.intermediate, case.layers));
            for lens in model.lenses() {
                lens.read(&checkpoint).unwrap_or_else(|e| panic!("{e}\n{}", shown()));
            }
        }
    }
}

#[test]
fn a_case_reads_back_from_its_json_and_builds_the_same_bytes() {
    for architecture in Architecture::ALL {
        for case in cases(architecture).take(30) {
            let text = serde_json::to_string(&case).unwrap();
            let again: SourceCase = serde_json::from_str(&text).unwrap();
            assert_eq!(again, case);
            let (one, two) = (case.build().unwrap(), again.build().unwrap());
            assert_eq!(one.config().json(), two.config().json());
            for (name, tensor) in one.tensors() {
                assert_eq!(tensor.bytes(), two.tensor(name).unwrap().bytes(), "{name}");
            }
        }
    }
}

#[test]
fn a_case_of_absurd_sizes_is_refused_before_anything_is_allocated() {
    for (field, size) in [("vocabulary", usize::MAX), ("hidden", 1 << 40), ("layers", 1 << 20)] {
        let mut case = SourceCase::random(Architecture::Vit, &mut generator(0));
        match field {
            "vocabulary" => case.vocabulary = size,
            "hidden" => case.hidden = size,
            _ => case.layers = size,
        }
        let message = case.build().unwrap_err().to_string();
        assert!(message.contains(&format!("`{field}`")), "{message}");
    }
    let mut case = SourceCase::random(Architecture::Gpt2, &mut generator(0));
    (case.buffers, case.positions, case.layers) = (true, 4096, 4000);
    assert!(case.build().unwrap_err().to_string().contains("2²⁸"));
}

#[test]
fn an_impossible_case_is_an_error_and_no_panic() {
    for architecture in Architecture::ALL {
        for change in 0..4 {
            let mut case = SourceCase::random(architecture, &mut generator(change));
            match change {
                0 => case.heads = 0,
                1 => case.hidden = 0,
                2 => (case.kv_heads, case.heads) = (2, 3),
                _ => case.image = case.image.map(|image| ImageCase { patch: 99, ..image }),
            }
            let _ = case.build();
        }
    }
}

#[test]
fn every_setting_is_reached() {
    for architecture in Architecture::ALL {
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        let mut note = |what: String| *seen.entry(what).or_default() += 1;
        for case in cases(architecture) {
            note(format!("activation {}", case.activation));
            note(format!("head {:?}", case.head));
            note(format!("weights {:?}", case.weights));
            note(format!("dtype {:?}", case.dtype));
            note(format!("eps {}", case.eps));
            note(format!("tied {}", case.tied));
            note(format!("twice {}", case.stored_twice));
            note(format!("prefixed {}", case.prefixed));
            note(format!("buffers {}", case.buffers));
            note(format!("biases {:?}", case.biases));
            note(format!("one layer {}", case.layers == 1));
            note(format!("one head {}", case.heads == 1));
            note(format!("head size {}", case.head_dim));
            note(format!("grouped {}", case.kv_heads < case.heads));
            note(format!("one kv head {}", case.kv_heads == 1 && case.heads > 1));
            note(format!("one neuron {}", case.intermediate == 1));
            note(format!("scale {} {}", case.scale_by_head, case.scale_by_layer));
            note(format!("oblong {}", case.image.is_some_and(|i| i.height != i.width)));
        }
        for (what, count) in expected(architecture) {
            let times = seen.get(&what).copied().unwrap_or(0);
            assert!(
                times >= count,
                "{architecture:?}: `{what}` {times} times of {CASES}: {seen:?}"
            );
        }
    }
}

/// What must be seen, and how often at least.
fn expected(architecture: Architecture) -> Vec<(String, usize)> {
    let mut wanted: Vec<(String, usize)> = Vec::new();
    let mut add = |what: &str, count: usize| wanted.push((what.to_string(), count));
    for style in [
        WeightStyle::Random,
        WeightStyle::SmallEmbeddings,
        WeightStyle::DefaultInit,
        WeightStyle::Large,
        WeightStyle::Tiny,
    ] {
        add(&format!("weights {style:?}"), 10);
    }
    for what in ["dtype F64", "dtype F32", "dtype F16", "dtype Bf16", "one layer true"] {
        add(what, 25);
    }
    for what in ["one head true", "one neuron true", "one layer false", "one head false"] {
        add(what, 15);
    }
    let timm = architecture == Architecture::VitTimm;
    let llama = architecture == Architecture::Llama;
    let words = !timm && architecture != Architecture::Vit;
    if words {
        ["tied true", "tied false"].iter().for_each(|what| add(what, 50));
        add("twice true", 5);
    }
    if !timm {
        for act in ["gelu", "relu", "silu", "tanh", "gelu_pytorch_tanh"] {
            add(&format!("activation {act}"), 15);
        }
        for eps in ["0.000000000001", "0.000001", "0.00001", "0.001", "0.1"] {
            add(&format!("eps {eps}"), 20);
        }
        ["prefixed true", "prefixed false"].iter().for_each(|what| add(what, 50));
    } else {
        add("oblong true", 50);
    }
    if llama {
        ["grouped true", "one kv head true", "grouped false"].iter().for_each(|w| add(w, 30));
    } else {
        ["head size 1", "head size 2"].iter().for_each(|what| add(what, 20));
    }
    if architecture == Architecture::Gpt2 {
        ["scale false false", "scale true true"].iter().for_each(|what| add(what, 5));
    }
    let heads: &[Head] = match architecture {
        Architecture::Gpt2 | Architecture::Llama => &[Head::Words, Head::Base],
        Architecture::Bert => &[Head::Words, Head::Base, Head::Pooled],
        Architecture::Vit => &[Head::Classes, Head::Base, Head::Pooled],
        Architecture::VitTimm => &[Head::Classes],
    };
    heads.iter().for_each(|head| add(&format!("head {head:?}"), 40));
    wanted
}
