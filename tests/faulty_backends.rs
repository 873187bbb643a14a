//! Backends that are dead, hang or lie: each is reported as the backend's failure, and none hangs
//! or crashes its caller.
#![cfg(unix)]

use lemon_check::backend::case::Case;
use lemon_check::backend::ops::Operation;
use lemon_check::backend::program::{Limits, Program};
use lemon_check::backend::suite::{Plan, Problem, Verdict, replay, run};
use lemon_check::backend::{Backend, Failure, OpRequest, Request};
use lemon_check::checkpoint::Dtype;
use std::time::{Duration, Instant};

/// Short times; a shell needs milliseconds.
const LIMITS: Limits =
    Limits { start: Duration::from_millis(1500), answer: Duration::from_millis(700) };

/// A shell script that greets as it should and then, for each request, runs `body`, which finds the
/// request's id in `$id` and the file to write in `$out`.
fn script(body: &str) -> String {
    let hello = r#"{\"id\":$id,\"protocol\":1,\"name\":\"faulty\",\"dtypes\":[\"f32\"],\"ops\":[\"linear\"],\"forward\":[\"llama\"]}"#;
    format!(
        r#"while read -r line; do
            id=${{line#*\"id\":}}; id=${{id%%[,\}}]*}}
            out=${{line#*\"outputs\":\"}}; out=${{out%%\"*}}
            case $line in
                *'"request":"hello"'*) echo "{hello}" ;;
                *) {body} ;;
            esac
        done"#
    )
}

fn linear() -> OpRequest {
    let case =
        r#"{"op":"linear","sizes":{"rows":1,"in":2,"out":2},"on":[],"numbers":"normal","seed":0}"#;
    let operation = Operation::named("linear").unwrap();
    operation.request(&serde_json::from_str(case).unwrap(), Dtype::F32)
}

/// What a program says to the same request, twice; it must not take long.
fn failures(command: &str) -> [String; 2] {
    let start = Instant::now();
    let mut program = Program::start(command, LIMITS).unwrap();
    let request = linear();
    let answers = [(); 2].map(|()| match program.answer(&Request::Op(&request)) {
        Err(Failure::Failed(why)) => why,
        other => panic!("{command}: {other:?}"),
    });
    assert!(start.elapsed() < Duration::from_secs(10), "{command}: {:?}", start.elapsed());
    answers
}

#[test]
fn a_program_that_does_not_greet_is_an_error_that_says_why() {
    for (command, words) in [
        ("exit 3", "ended without an answer (exit status: 3)"),
        ("echo lost >&2; exit 1", "lost"),
        ("/no/such/program", "not found"),
        ("sleep 100", "did not answer within 1.5 s"),
        ("yes", "answered no reply"),
        ("tr -d '\\n' < /dev/zero", "more than 1048576 bytes"),
        ("read line; echo '{\"id\":0,\"protocol\":7,\"name\":\"x\",\"dtypes\":[]}'", "version 1"),
        ("read line; echo '{\"id\":0,\"protocol\":1}'", "lacks `name` or `dtypes`"),
        ("read line; echo '{\"id\":5,\"protocol\":1}'", "answered to request Some(5) instead of 0"),
        ("read line; printf '\\377\\n'", "no UTF-8"),
        ("exec 1>&-; sleep 100", "ended without an answer"),
    ] {
        let error = Program::start(command, LIMITS).err().unwrap_or_else(|| panic!("{command}"));
        assert!(error.to_string().contains(words), "{command}: {error}");
    }
}

#[test]
fn a_program_that_fails_an_answer_is_started_again() {
    for (body, words) in [
        (
            "echo 'out of memory' >&2; exit 7",
            &["ended without an answer", "7", "out of memory"][..],
        ),
        ("kill -9 $$", &["ended without an answer", "signal: 9"]),
        ("sleep 100", &["did not answer within 0.7 s"]),
        ("while :; do :; done", &["did not answer within 0.7 s"]),
        ("echo nonsense", &["answered no reply", "nonsense"]),
        ("echo", &["answered no reply"]),
        ("echo \"{\\\"id\\\":$id\"", &["answered no reply"]),
        ("echo '{\"id\":99,\"ok\":true}'", &["answered to request Some(99)"]),
        ("echo \"{\\\"id\\\":$id}\"", &["neither `ok` nor `unsupported` nor `error`"]),
        ("echo \"{\\\"id\\\":$id,\\\"error\\\":\\\"no luck\\\"}\"", &["no luck"]),
        ("echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"", &["read what the backend wrote"]),
        ("mkfifo $out; echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"", &["no regular file"]),
        ("mkdir $out; echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"", &["no regular file"]),
        (
            "ln -s /dev/zero $out; echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"",
            &["read what the backend wrote"],
        ),
        ("echo abc > $out; echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"", &["out.safetensors"]),
    ] {
        let [first, second] = failures(&script(body));
        for word in words {
            assert!(first.contains(word), "{body}: {first}");
        }
        // A folder in the way of the answer stays there.
        if !body.starts_with("mkdir") {
            assert!(second.contains(words[0]), "{body}, again: {second}");
        }
    }
}

#[test]
fn a_program_that_talks_too_much_is_caught() {
    let twice = "echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"; echo more";
    // The second line may come before or after the next request.
    for why in failures(&script(twice)) {
        let known = ["read what the backend wrote", "without being asked", "answered no reply"];
        assert!(known.iter().any(|words| why.contains(words)), "{why}");
    }
}

#[test]
fn children_of_a_program_end_with_it() {
    let marker = format!("31{}", std::process::id());
    let body = format!("sleep {marker} & sleep {marker}");
    failures(&script(&body));
    std::thread::sleep(Duration::from_millis(100));
    let mut alive = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        if words.first() == Some(&&b"sleep"[..]) && words.contains(&marker.as_bytes()) {
            alive.push(entry.path());
        }
    }
    assert!(alive.is_empty(), "{alive:?}");
}

/// A script that answers with the tensor `name`, whose bytes `printf` makes.
fn answering(name: &str, dtype: &str, shape: &str, bytes: &str, length: usize) -> String {
    let header = format!(
        "{{\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[0,{length}]}}}}"
    );
    let size = format!("\\{:03o}\\000\\000\\000\\000\\000\\000\\000", header.len());
    let body = format!(
        "{{ printf '{size}'; printf '%s' '{header}'; printf '{bytes}'; }} > $out; \
         echo \"{{\\\"id\\\":$id,\\\"ok\\\":true}}\""
    );
    script(&body)
}

#[test]
fn lies_in_the_right_form_are_findings_and_the_run_goes_on() {
    let nan = "\\000\\000\\300\\177";
    let zero = "\\000\\000\\000\\000";
    for (command, words) in [
        (answering("y", "F32", "[1,2]", &nan.repeat(2), 8), "NaN"),
        (answering("y", "F32", "[2,1]", &zero.repeat(2), 8), "shape"),
        (answering("y", "F64", "[1,1]", &zero.repeat(2), 8), "F64, not F32"),
    ] {
        let mut program = Program::start(&command, LIMITS).unwrap();
        let plan = Plan { cases: 3, seed: 0, dtype: Dtype::F32 };
        let outcome = run(&mut program, plan, |_| ()).unwrap();
        assert_eq!(outcome.verdict(), Verdict::Disagrees);
        let tally = outcome.subjects.iter().find(|tally| tally.subject == "linear").unwrap();
        let Problem::Failure { why } = &tally.finding.as_ref().unwrap().problem else {
            panic!("{tally:?}")
        };
        assert!(why.contains(words) || why.contains("shape"), "{why}");
        let asked = ["linear", "forward llama"];
        let others = outcome.subjects.iter().filter(|t| !asked.contains(&t.subject.as_str()));
        assert!(
            others.into_iter().all(|tally| tally.unsupported == 3),
            "the others were not asked"
        );
    }
}

/// A model of one word, whose `logits` are one number.
const MODEL: &str = r#"{"source":{"architecture":"llama","config":{"hidden_size":1,
    "intermediate_size":1,"model_type":"llama","num_attention_heads":1,"num_hidden_layers":1,
    "vocab_size":1,"head_dim":2},"stored":["model.embed_tokens.weight"],"buffers":{},
    "dtype":"float32","weights":"random","seed":0},"input":{"input_ids":[0]}}"#;

#[test]
fn faults_at_whole_models_are_findings() {
    let (nan, zero) = ("\\000\\000\\300\\177", "\\000\\000\\000\\000");
    let ok = "echo \"{\\\"id\\\":$id,\\\"ok\\\":true}\"";
    for (command, words) in [
        (script("exit 7"), "ended without an answer"),
        (script("sleep 100"), "did not answer within 0.7 s"),
        (script("echo nonsense"), "answered no reply"),
        (script(ok), "read what the backend wrote"),
        (script(&format!("echo abc > $out; {ok}")), "out.safetensors"),
        (answering("y", "F32", "[1,1]", zero, 4), "lacks `logits`"),
        (answering("logits", "F32", "[1]", zero, 4), "`logits` has shape [1], not [1, 1]"),
        (answering("logits", "F64", "[1,1]", &zero.repeat(2), 8), "F64, not F32"),
        (answering("logits", "F32", "[1,1]", nan, 4), "NaN"),
    ] {
        let mut program = Program::start(&command, LIMITS).unwrap();
        let case = serde_json::from_str(MODEL).unwrap();
        let outcome = replay(&mut program, &case, Dtype::F32).unwrap();
        assert_eq!(outcome.verdict(), Verdict::Disagrees);
        let Some(Problem::Failure { why }) =
            outcome.subjects[0].finding.as_ref().map(|f| &f.problem)
        else {
            panic!("{outcome:?}")
        };
        assert!(why.contains(words), "{why}");
    }
}

#[test]
fn a_case_that_is_none_is_an_error() {
    let mut program = Program::start(&script("exit"), LIMITS).unwrap();
    for (changed, words) in [
        (MODEL.replace("float32", "float16"), "float16"),
        (MODEL.replace("[0]", "[1]"), "token id 1"),
        (MODEL.replace("\"head_dim\":2", "\"head_dim\":3"), "pairs"),
    ] {
        let case = serde_json::from_str(&changed).unwrap();
        let error = replay(&mut program, &case, Dtype::F32).err();
        let said = error.unwrap_or_else(|| panic!("{changed}")).to_string();
        assert!(said.contains(words), "{said}");
    }
    let unknown = MODEL.replace("input_ids", "words");
    let error = serde_json::from_str::<Case>(&unknown).unwrap_err().to_string();
    assert!(error.contains("input_ids"), "{error}");
}

#[test]
fn a_backend_that_does_nothing_does_not_agree() {
    let refusing = script("echo \"{\\\"id\\\":$id,\\\"unsupported\\\":\\\"not today\\\"}\"");
    let mut program = Program::start(&refusing, LIMITS).unwrap();
    let plan = Plan { cases: 2, seed: 0, dtype: Dtype::F32 };
    let outcome = run(&mut program, plan, |_| ()).unwrap();
    assert_eq!(outcome.verdict(), Verdict::NothingCompared);
    let error = run(&mut program, Plan { dtype: Dtype::F16, ..plan }, |_| ()).unwrap_err();
    assert!(error.to_string().contains("does not take f16"), "{error}");
}
