//! The command line tool from outside: verdicts, reports, exit codes, and what it says of bad
//! input.

use assert_cmd::Command;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

const SOURCE: &str = "tests/data/source.safetensors";
const EXPANDED: &str = "tests/data/expanded.safetensors";
const BROKEN: &str = "tests/data/broken.safetensors";

fn run(arguments: &[&str]) -> Output {
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stdout(output)))
}

/// Checks that a run ended in an error of exit code `code`, with one message that holds `parts`,
/// and without a verdict.
#[track_caller]
fn assert_error(output: &Output, code: i32, parts: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert_eq!(message.matches("error: ").count(), 1, "{message}");
    assert!(message.contains("help: "), "{message}");
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert_eq!(stdout(output), "");
}

/// A `.safetensors` file: header length, header, data.
fn container(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// The header and the data of a file.
fn parts(path: &str) -> (Value, Vec<u8>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let bytes = fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..8 + length]).unwrap(), bytes[8 + length..].to_vec())
}

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Folder(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_string()
    }

    /// The expanded model of the shipped pair, with a changed header or changed numbers.
    fn changed(&self, name: &str, change: impl Fn(&mut Value, &mut Vec<u8>)) -> String {
        let (mut header, mut data) = parts(EXPANDED);
        change(&mut header, &mut data);
        self.write(name, container(&header.to_string(), &data))
    }
}

/// Changes a field of the configuration in a header's metadata.
fn configure(header: &mut Value, field: &str, value: Value) {
    let text = header["__metadata__"]["config"].as_str().unwrap();
    let mut config: Value = serde_json::from_str(text).unwrap();
    config[field] = value;
    header["__metadata__"]["config"] = config.to_string().into();
}

#[test]
fn the_shipped_pair_is_lossless() {
    let output = run(&[SOURCE, EXPANDED]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).starts_with("lossless: for every input, "));
    assert_eq!(stderr(&output), "", "no progress bar in a pipe");
}

#[test]
fn a_model_is_an_exact_copy_of_itself() {
    let output = run(&[SOURCE, SOURCE, "--strict"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("exact: every residual is zero"));
}

#[test]
fn the_broken_one_is_not_lossless_and_the_text_says_why_in_order() {
    let output = run(&[SOURCE, BROKEN]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    let labels = [
        "not lossless: ",
        "fails ",
        "`transformer.h.1.ln_2.weight`",
        "at ",
        "expected ",
        "got ",
        "units of rounding",
        "likely ",
        "witness ",
        "replay ",
    ];
    let mut at = 0;
    for label in labels {
        at += text[at..].find(label).unwrap_or_else(|| panic!("`{label}` in order: {text}"));
    }
}

#[test]
fn the_commands_of_a_witness_show_the_difference() {
    let report = json_of(&run(&[SOURCE, BROKEN, "--format", "json"]));
    let witness = &report["witness"];
    let index = [0, 1].map(|i| witness["index"][i].as_u64().unwrap() as usize);
    for (side, replay) in ["source", "expanded"].iter().zip(witness["replay"].as_array().unwrap()) {
        let command = replay.as_str().unwrap().replace('"', "'");
        let (front, ids) = command.split_once(" --input-ids ").unwrap();
        let words: Vec<&str> = front.split(' ').skip(1).collect();
        let ids = ids.trim_matches('\'');
        let output = json_of(&run(&[&words[..], &["--input-ids", ids]].concat()));
        let logits = &output["outputs"][0];
        let at = index[0] * logits["shape"][1].as_u64().unwrap() as usize + index[1];
        assert_eq!(logits["data"][at], witness[side], "{command}");
    }
}

#[test]
fn the_json_report_has_the_keys_of_its_schema() {
    let report = json_of(&run(&[SOURCE, BROKEN, "--format", "json"]));
    let keys: Vec<&str> = report.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "schema_version",
        "version",
        "verdict",
        "detail",
        "evidence",
        "strict",
        "eps_limited_allowed",
        "passed",
        "source",
        "expanded",
        "maps",
        "equations",
        "entries",
        "worst_units",
        "resolution",
        "failures",
        "unknowns",
        "witness",
        "inputs_tried",
        "forward_resolution",
        "eps_limits",
        "effect",
        "ignored_buffers",
        "seconds",
    ];
    assert_eq!(keys, expected);
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["verdict"], "not_lossless");
    let failure = report["failures"][0].as_object().unwrap();
    for key in ["rule", "tensor", "source_tensor", "place", "index", "expected", "got", "units"] {
        assert!(failure.contains_key(key), "{key}");
    }
    let report = json_of(&run(&[SOURCE, EXPANDED, "--format", "json"]));
    assert_eq!(report["verdict"], "lossless");
    assert_eq!(report["detail"], "to_storage_rounding");
    assert_eq!(report["maps"][0]["words"], "12 → 20: every channel once, 8 hold the mean");
}

#[test]
fn strict_fails_what_is_equal_only_to_storage_rounding() {
    let output = run(&[SOURCE, EXPANDED, "--strict"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("--strict: failed"), "{}", stdout(&output));
}

#[test]
fn output_writes_the_report_to_a_file_and_the_verdict_to_stdout() {
    let folder = Folder::new();
    let file = folder.write("report.json", "an older report");
    let output = run(&[SOURCE, EXPANDED, "--format", "json", "--output", &file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(stdout(&output).starts_with("lossless: ") && stdout(&output).lines().count() == 1);
    let report: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(report["passed"], true);
    assert_eq!(fs::read_dir(folder.0.path()).unwrap().count(), 1, "nothing else is left behind");
    let output = run(&[SOURCE, EXPANDED, "--output", "/nonexistent/report"]);
    assert_error(&output, 4, &["/nonexistent/report"]);
}

#[test]
fn wrong_usage_exits_with_2() {
    for arguments in [
        &[][..],
        &[SOURCE],
        &[SOURCE, EXPANDED, "third"],
        &[SOURCE, EXPANDED, "--no-such-flag"],
        &[SOURCE, EXPANDED, "--format", "xml"],
        &["expand", SOURCE],
        &["logits", SOURCE],
        &["logits", SOURCE, "--input-ids", "1 two 3"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).starts_with("error: "), "{arguments:?}");
    }
}

#[test]
fn a_file_with_the_name_of_a_command_is_reached_by_its_path() {
    let folder = Folder::new();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join(SOURCE), folder.path("expand")).unwrap();
    let mut command = Command::cargo_bin("lemon-check").unwrap();
    command.current_dir(folder.0.path()).args(["./expand", "./expand"]).assert().code(0);
}

#[test]
fn expanding_then_checking_is_lossless_for_files_and_folders() {
    let folder = Folder::new();
    for name in ["large.safetensors", "large"] {
        let out = folder.path(name);
        let out = out.to_str().unwrap();
        let sizes = ["--hidden-size", "31", "--num-attention-heads", "8", "--head-dim", "4"];
        let output = run(&[&["expand", SOURCE, out], &sizes[..]].concat());
        // GPT-2's head size is hidden / heads: 31 is refused, with the nearest sizes that work.
        assert_error(&output, 3, &["hidden"]);
        let sizes = ["--hidden-size", "32", "--num-attention-heads", "8"];
        let more = ["--intermediate-size", "97", "--num-hidden-layers", "4", "--seed", "7"];
        let output = run(&[&["expand", SOURCE, out], &sizes[..], &more].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        let output = run(&[SOURCE, out]);
        assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    }
}

#[test]
fn an_image_model_is_run_on_pixels_from_every_kind_of_file() {
    let folder = Folder::new();
    let model = "tests/golden/vit-hf";
    let golden: Value = serde_json::from_slice(
        &fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(model).join("golden.json")).unwrap(),
    )
    .unwrap();
    let pixels = &golden["inputs"][0]["pixels"];
    let shape: Vec<usize> = serde_json::from_value(pixels["shape"].clone()).unwrap();
    let data: Vec<f64> = serde_json::from_value(pixels["data"].clone()).unwrap();
    let rows: Vec<&[f64]> = data.chunks(shape[2]).collect();
    let nested: Vec<&[&[f64]]> = rows.chunks(shape[1]).collect();
    let list = folder.write("image.json", json!(nested).to_string());
    let header = json!({"pixels": {
        "dtype": "F64", "shape": shape, "data_offsets": [0, 8 * data.len()]
    }});
    let bytes: Vec<u8> = data.iter().flat_map(|value| value.to_le_bytes()).collect();
    let tensor = folder.write("image.safetensors", container(&header.to_string(), &bytes));
    let first = json_of(&run(&["logits", model, "--pixels", &list]));
    assert_eq!(first, json_of(&run(&["logits", model, "--pixels", &tensor])));
    let expected = golden["outputs"][0]["logits"]["data"].as_array().unwrap();
    for (got, expected) in first["outputs"][0]["data"].as_array().unwrap().iter().zip(expected) {
        assert!((got.as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-10);
    }
    assert_eq!(run(&["logits", model, "--pixels", "random:3"]).status.code(), Some(0));
}

#[test]
fn a_missing_file_is_named() {
    assert_error(&run(&[SOURCE, "no/such/model"]), 4, &["no/such/model"]);
}

#[test]
fn an_error_is_json_too_where_json_was_asked_for() {
    let output = run(&[SOURCE, "no/such/model", "--format", "json"]);
    assert_eq!(output.status.code(), Some(4));
    let error = json_of(&output);
    assert_eq!(error["schema_version"], 1);
    assert_eq!(error["error"]["class"], "bad_input");
    assert!(error["error"]["message"].as_str().unwrap().contains("no/such/model"));
    assert!(error.get("verdict").is_none());
}

#[test]
fn an_empty_file_is_named() {
    let folder = Folder::new();
    let file = folder.write("empty.safetensors", "");
    assert_error(&run(&[SOURCE, &file]), 4, &["empty.safetensors"]);
}

#[test]
fn a_truncated_file_is_named() {
    let folder = Folder::new();
    let file = folder.changed("cut.safetensors", |_, data| data.truncate(data.len() / 2));
    assert_error(&run(&[SOURCE, &file]), 4, &["cut.safetensors"]);
    let file = folder.write("stub.safetensors", [9, 0, 0]);
    assert_error(&run(&[SOURCE, &file]), 4, &["stub.safetensors"]);
}

#[test]
fn a_header_that_lies_is_caught() {
    let folder = Folder::new();
    let file = folder.write("long.safetensors", [&u64::MAX.to_le_bytes()[..], b"{}"].concat());
    assert_error(&run(&[SOURCE, &file]), 4, &["long.safetensors"]);
    let file = folder.changed("shape.safetensors", |header, _| {
        header["transformer.wpe.weight"]["shape"] = json!([1, 1]);
    });
    assert_error(&run(&[SOURCE, &file]), 4, &["shape.safetensors", "transformer.wpe.weight"]);
    let file = folder.changed("range.safetensors", |header, _| {
        header["transformer.wpe.weight"]["data_offsets"] = json!([0, 1u64 << 60]);
    });
    assert_error(&run(&[SOURCE, &file]), 4, &["range.safetensors", "transformer.wpe.weight"]);
}

#[test]
fn a_name_that_is_stored_twice_is_caught() {
    let folder = Folder::new();
    let (header, data) = parts(EXPANDED);
    let name = "transformer.wpe.weight";
    let twice = format!("{{\"{name}\":{},{}", header[name], &header.to_string()[1..]);
    let file = folder.write("twice.safetensors", container(&twice, &data));
    assert_error(&run(&[SOURCE, &file]), 4, &["twice.safetensors", name]);
}

#[test]
fn weights_that_are_not_finite_are_named_with_their_index() {
    for (value, shown) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let folder = Folder::new();
        let name = "transformer.h.2.mlp.c_fc.bias";
        let file = folder.changed("wild.safetensors", |header, data| {
            let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
            data[start + 4 * 5..][..4].copy_from_slice(&value.to_le_bytes());
        });
        assert_error(&run(&[SOURCE, &file]), 4, &["wild.safetensors", name, shown, "[5]"]);
    }
}

#[test]
fn shapes_that_contradict_the_configuration_name_field_and_tensor() {
    let folder = Folder::new();
    let file = folder.changed("field.safetensors", |header, _| {
        configure(header, "n_inner", json!(101));
    });
    let output = run(&[SOURCE, &file]);
    assert_error(&output, 4, &["field.safetensors", "mlp.c_fc", "n_inner", "101"]);
}

#[test]
fn an_unknown_family_is_named() {
    let folder = Folder::new();
    let file = folder.changed("mamba.safetensors", |header, _| {
        configure(header, "model_type", json!("mamba"));
    });
    assert_error(&run(&[SOURCE, &file]), 3, &["mamba.safetensors", "model_type", "gpt2"]);
}

#[test]
fn swapped_arguments_are_suspected() {
    assert_error(&run(&[EXPANDED, SOURCE]), 4, &[SOURCE, "hidden size", "swapped"]);
    let folder = Folder::new();
    let deeper = folder.path("deeper.safetensors");
    let deeper = deeper.to_str().unwrap();
    assert!(run(&["expand", SOURCE, deeper, "--num-hidden-layers", "3"]).status.success());
    assert_error(&run(&[deeper, SOURCE]), 4, &["number of layers", "swapped"]);
}

#[test]
fn models_that_read_or_return_other_things_are_no_pair() {
    let output = run(&["tests/golden/gpt2-lm", SOURCE]);
    assert_error(&output, 4, &["token ids"]);
    let output = run(&["tests/golden/bert-mlm", SOURCE]);
    assert_error(&output, 3, &["bert", "gpt2"]);
}

#[test]
fn a_folder_without_weights_is_named() {
    let folder = Folder::new();
    folder.write("config.json", "{}");
    let path = folder.0.path().to_str().unwrap();
    assert_error(&run(&[SOURCE, path]), 4, &[path, "model.safetensors"]);
}

#[test]
fn an_index_that_points_outside_its_folder_is_refused() {
    let folder = Folder::new();
    let index = json!({"weight_map": {"transformer.wte.weight": "../secret.safetensors"}});
    folder.write("model.safetensors.index.json", index.to_string());
    folder.write("config.json", r#"{"model_type": "gpt2"}"#);
    let path = folder.0.path().to_str().unwrap();
    assert_error(&run(&[SOURCE, path]), 4, &["index.json", "../secret.safetensors"]);
}

#[test]
fn a_tensor_that_nothing_reads_is_never_lossless() {
    let folder = Folder::new();
    let file = folder.changed("stranger.safetensors", |header, data| {
        let end = data.len();
        data.extend([0; 8]);
        header["adapter.weight"] =
            json!({"dtype": "F32", "shape": [2], "data_offsets": [end, end + 8]});
    });
    let output = run(&[SOURCE, &file]);
    assert_eq!(output.status.code(), Some(3), "{}", stdout(&output));
    assert!(
        stdout(&output).starts_with("undecided: ") && stdout(&output).contains("adapter.weight")
    );
}

#[test]
fn a_reader_that_goes_away_is_no_bug() {
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin("lemon-check"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args([SOURCE, EXPANDED]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = command.stdout(writer).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let output = output.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

/// The shipped expanded model with the source's ε.
fn with_unscaled_eps(folder: &Folder) -> String {
    let (source, _) = parts(SOURCE);
    let config: Value =
        serde_json::from_str(source["__metadata__"]["config"].as_str().unwrap()).unwrap();
    let eps = config["layer_norm_epsilon"].clone();
    folder.changed("eps.safetensors", |header, _| {
        configure(header, "layer_norm_epsilon", eps.clone())
    })
}

#[test]
fn a_wrong_eps_alone_is_eps_limited_and_the_report_says_how_much_it_matters() {
    let folder = Folder::new();
    let pair = with_unscaled_eps(&folder);
    let text = stdout(&run(&[SOURCE, &pair]));
    for part in
        ["not lossless (eps-limited): ", "`layer_norm_epsilon` = ", "at v = 0, where a stream"]
    {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    let output = run(&[SOURCE, &pair, "--format", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let report = json_of(&output);
    assert_eq!(report["detail"], "eps_limited");
    let limit = &report["eps_limits"][0];
    let number = |field: &str| limit[field].as_f64().unwrap();
    let (right, got, variance) = (number("right"), number("got"), number("smallest_variance"));
    assert!(right < got && variance > 0.0);
    let change = (((variance + right) / (variance + got)).sqrt() - 1.0).abs();
    assert!((number("change") - change).abs() < 1e-12);
    assert!(number("change") < number("bound"));
}

#[test]
fn an_eps_limited_pair_passes_only_where_that_is_allowed() {
    let folder = Folder::new();
    let pair = with_unscaled_eps(&folder);
    let allowed = run(&[SOURCE, &pair, "--allow", "eps-limited", "--format", "json"]);
    assert_eq!(allowed.status.code(), Some(0));
    let report = json_of(&allowed);
    assert_eq!((&report["verdict"], &report["passed"]), (&json!("not_lossless"), &json!(true)));
    let broken = run(&[SOURCE, BROKEN, "--allow", "eps-limited"]);
    assert_eq!(broken.status.code(), Some(1), "nothing else is forgiven");
    let both = run(&[SOURCE, &pair, "--allow", "eps-limited", "--strict"]);
    assert_eq!(both.status.code(), Some(2));
}

#[test]
fn weights_in_a_quantised_format_are_undecided_and_named() {
    let (mut header, data) = parts(SOURCE);
    let name = "transformer.h.0.mlp.c_fc.weight";
    assert_eq!(header[name]["dtype"], "F32");
    header[name]["dtype"] = json!("I32");
    let folder = Folder::new();
    let file = folder.write("model.safetensors", container(&header.to_string(), &data));
    let output = run(&[&file, &file]);
    assert_error(&output, 3, &[name, "stored as I32", "before it was quantised"]);
}
