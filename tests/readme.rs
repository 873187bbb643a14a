//! The tables of the README are made from the code: families from what the golden models are
//! described as, rules from the first sentence of their files. The two reports that it shows are
//! what the program says.
//!
//! `LEMON_WRITE=1 cargo test --test readme` writes the tables anew.

use assert_cmd::Command;
use lemon_check::checkpoint::Checkpoint;
use lemon_check::model::convolutional::{ConvNet, describe_convnet, is_convolutional};
use lemon_check::model::{
    Attention, Count, Input, Lens, Mlp, Model, Norm, NormKind, Op, Step, TableIndex, describe,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// What a family's golden models have, by column.
type Row = BTreeMap<&'static str, BTreeSet<String>>;

const COLUMNS: [&str; 5] = ["reads", "norms", "attention", "feed-forward", "returns"];

/// A table of every family and what its golden models have.
fn families() -> String {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    for entry in fs::read_dir(root().join("tests/golden")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() {
            continue;
        }
        let checkpoint = Checkpoint::open(&path, None).unwrap();
        if is_convolutional(checkpoint.config()) {
            let net = describe_convnet(&checkpoint).unwrap();
            note_convnet(&net, rows.entry("resnet").or_default());
            continue;
        }
        let model = describe(&checkpoint).unwrap();
        let row = rows.entry(model.family.name).or_default();
        note(&model, |column, trait_| {
            row.entry(column).or_default().insert(trait_.into());
        });
    }
    let mut table = format!("| family | {} |\n|{}\n", COLUMNS.join(" | "), " --- |".repeat(6));
    for (family, row) in rows {
        let cell = |column: &str| {
            row.get(column).into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
        };
        table += &format!("| `{family}` | {} |\n", COLUMNS.map(cell).join(" | "));
    }
    table
}

/// The columns of a network of convolutions: it has neither attention nor feed-forward networks.
fn note_convnet(net: &ConvNet, row: &mut Row) {
    row.entry("reads").or_default().insert("images".into());
    row.entry("norms").or_default().insert("BatchNorm".into());
    row.entry("returns").or_default().insert("head".into());
    for block in net.stages.iter().flatten() {
        let kind = format!("blocks of {} convolutions", block.convolutions.len());
        row.entry("feed-forward").or_default().insert(kind);
    }
}

fn note(model: &Model, mut add: impl FnMut(&'static str, &str)) {
    match model.embedding.input {
        Input::Tokens { .. } => add("reads", "tokens"),
        Input::Image { .. } => add("reads", "images"),
    }
    for table in &model.embedding.tables {
        match table.index {
            TableIndex::Position(positions) if positions.count == Count::All => {
                add("reads", "positions");
            }
            TableIndex::Position(_) => add("reads", "counted positions"),
            TableIndex::TokenType => add("reads", "token types"),
            TableIndex::Token => {}
        }
    }
    if model.encoder.is_some() {
        add("attention", "cross-attention");
    }
    for sublayer in model.layers.iter().flatten() {
        if let Some(norm) = &sublayer.post_norm {
            add("norms", &format!("{} of the stream", kind(norm)));
        }
        for branch in &sublayer.branches {
            branch.norm.iter().for_each(|norm| add("norms", kind(norm)));
            if let Some(norm) = &branch.post_norm {
                add("norms", &format!("{} behind branches", kind(norm)));
            }
            branch.scale.iter().for_each(|_| add("norms", "LayerScale"));
            match &branch.op {
                Op::Attention(attention) => note_attention(attention, &mut add),
                Op::Mlp(mlp) => add("feed-forward", mlp_kind(mlp)),
                Op::Experts(_) => add("feed-forward", "experts"),
            }
        }
        if sublayer.branches.len() > 1 {
            add("feed-forward", "parallel to attention");
        }
    }
    note_outputs(model, add);
}

fn kind(norm: &Norm) -> &'static str {
    match (norm.kind, norm.offset == 0.0, norm.weight.is_some()) {
        (NormKind::Layer, _, true) => "LayerNorm",
        (NormKind::Layer, _, false) => "LayerNorm without weight",
        (NormKind::Rms, true, _) => "RMSNorm",
        (NormKind::Rms, false, _) => "RMSNorm of 1 + w",
    }
}

fn mlp_kind(mlp: &Mlp) -> &'static str {
    if mlp.gate.is_some() { "gated" } else { "plain" }
}

fn note_attention(attention: &Attention, add: &mut impl FnMut(&'static str, &str)) {
    let rotary = attention.rotary.as_ref().map(|rotary| 2 * rotary.frequencies.len());
    let has = [
        (attention.kv_heads < attention.heads, "grouped"),
        (attention.window.is_some(), "windows"),
        (attention.softcap.is_some(), "soft cap"),
        (attention.head_norms.is_some(), "QK-norm"),
        (rotary == Some(attention.head_dim), "rotary"),
        (rotary.is_some_and(|turned| turned < attention.head_dim), "partial rotary"),
        (attention.relative.is_some(), "relative positions"),
        (attention.causal, "causal"),
    ];
    has.iter().filter(|(it_has, _)| *it_has).for_each(|(_, what)| add("attention", what));
}

fn note_outputs(model: &Model, mut add: impl FnMut(&'static str, &str)) {
    let tables: Vec<&Lens> = model.embedding.tables.iter().map(|table| &table.lens).collect();
    for output in &model.outputs {
        let head = output.steps.iter().rev().find_map(|step| match step {
            Step::Linear(linear) => Some(&linear.weight),
            _ => None,
        });
        add(
            "returns",
            match head {
                Some(head) if tables.contains(&head) => "tied head",
                Some(_) if output.fixed => "head",
                _ => "hidden states",
            },
        );
    }
}

/// A table of the rules: the first sentence of each file, `What: how.`
fn rules() -> String {
    let files = [
        "embedding",
        "rules/linear",
        "rules/vector",
        "rules/norm",
        "branch",
        "rules/layer_scale",
        "attention",
        "rules/heads",
        "rules/rotary",
        "mlp",
        "experts",
        "rules/tied",
        "depth",
        "post_norm",
        "convolutional",
    ];
    let mut table = "| rule | file |\n| --- | --- |\n".to_string();
    for file in files {
        let path = format!("src/expand/{file}.rs");
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let lines = text.lines().map_while(|line| line.strip_prefix("//!"));
        let first: Vec<&str> = lines.map(str::trim).take_while(|line| !line.is_empty()).collect();
        let first = first.join(" ");
        let sentence = first.split_once(". ").map_or(first.as_str(), |(sentence, _)| sentence);
        table += &format!("| {} | [{file}]({path}) |\n", sentence.trim_end_matches('.'));
    }
    table
}

#[test]
fn the_tables_of_the_readme_are_current() {
    let path = root().join("README.md");
    let mut readme = fs::read_to_string(&path).unwrap();
    for (name, table) in [("families", families()), ("rules", rules())] {
        let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
        let first = readme.find(&begin).expect("a mark where the table begins") + begin.len();
        let last = first + readme[first..].find(&end).expect("a mark where the table ends");
        readme.replace_range(first..last, &table);
    }
    if std::env::var_os("LEMON_WRITE").is_some() {
        fs::write(&path, &readme).unwrap();
    }
    let advice = "LEMON_WRITE=1 cargo test --test readme writes the tables anew";
    assert_eq!(fs::read_to_string(&path).unwrap(), readme, "{advice}");
}

/// A report without its time, its numbers to three digits: their last ones depend on the processor.
fn rounded(report: &str) -> Vec<String> {
    let word = |word: &str| {
        let plain = word.trim_end_matches([',', ':', ']', ';']);
        match plain.parse::<f64>() {
            Ok(number) => format!("{number:.2e}{}", &word[plain.len()..]),
            Err(_) => word.to_string(),
        }
    };
    let lines = report.trim_end().lines().filter(|line| !line.starts_with("  time "));
    lines.map(|line| line.split(' ').map(word).collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn the_reports_of_the_readme_are_what_the_program_says() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for (expanded, verdict) in [("expanded", "lossless: "), ("broken", "not lossless: ")] {
        let shown = readme.split("```text\n").find(|block| block.starts_with(verdict)).unwrap();
        let shown = &shown[..shown.find("```").unwrap()];
        let mut command = Command::cargo_bin("lemon-check").unwrap();
        let models = ["source", expanded].map(|name| format!("tests/data/{name}.safetensors"));
        let output = command.current_dir(root()).args(models).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(rounded(shown), rounded(&said), "{expanded}");
    }
}
