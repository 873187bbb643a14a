//! A backend that is a program in any language, over [`super::protocol`].
//!
//! Nothing that the program does can hang or crash its caller: replies are read by a thread and
//! waited for until a deadline, lines and files are bounded, and a program that is late or answers
//! nonsense is ended with all its children. The next request starts it again.

use super::dtype_name;
use super::files::{self, Folder};
use super::protocol::{Asked, Line, Reply, VERSION};
use super::{About, Answer, Backend, ExpandRequest, Failure, ForwardRequest, OpRequest, Request};
use crate::error::{Error, Result, printable};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// To start and say hello: libraries are loaded.
    pub start: Duration,
    /// For each answer: kernels may be compiled.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { start: Duration::from_secs(120), answer: Duration::from_secs(60) }
    }
}

/// The first request.
const HELLO: &str = r#"{"protocol":1,"id":0,"request":"hello"}"#;
/// The longest reply.
const LINE_LIMIT: u64 = 1 << 20;
/// How much of the end of standard error is shown.
const STDERR_LIMIT: usize = 2000;
/// How long an ended program's last words are waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A program that answers.
pub struct Program {
    command: String,
    limits: Limits,
    about: About,
    folder: Folder,
    running: Option<Running>,
    requests: u64,
}

impl Program {
    /// Starts `command`, a line for the shell, and asks what it can do.
    ///
    /// # Errors
    /// If it does not start, does not answer in time, or speaks another version of the protocol.
    pub fn start(command: &str, limits: Limits) -> Result<Program> {
        let mut program = Program {
            command: command.to_string(),
            limits,
            about: About::default(),
            folder: Folder::new()?,
            running: None,
            requests: 0,
        };
        program.run().map_err(|problem| {
            Error::bad_input(format!("the backend `{command}` does not answer: {problem}"))
                .help(format!("run it by hand and give it this line: {HELLO}"))
        })?;
        Ok(program)
    }

    /// Starts the program, unless it runs.
    fn run(&mut self) -> std::result::Result<(), String> {
        if self.running.is_some() {
            return Ok(());
        }
        self.running = Some(Running::start(&self.command)?);
        let reply = self.ask(Asked::Hello {}, Some(VERSION), self.limits.start)?;
        let problem = match (reply.protocol, reply.about) {
            (Some(VERSION), Some(about)) => {
                self.about = about;
                return Ok(());
            }
            (Some(VERSION), None) => "its reply to `hello` lacks `name` or `dtypes`".to_string(),
            _ => format!("it does not speak version {VERSION} of the protocol"),
        };
        Err(self.running.take().map_or(problem.clone(), |running| running.end(problem)))
    }

    /// Sends one request and waits for its reply; a program that fails is ended.
    fn ask(
        &mut self,
        asked: Asked,
        protocol: Option<u32>,
        limit: Duration,
    ) -> std::result::Result<Reply, String> {
        let id = self.requests;
        self.requests += 1;
        let running = self.running.as_mut().ok_or("it is not running")?;
        let line = serde_json::to_string(&Line { protocol, id, asked }).map_err(|e| e.to_string());
        let reply = line.and_then(|line| running.exchange(line, limit)).and_then(|line| {
            let reply: Reply = serde_json::from_str(&line)
                .map_err(|e| format!("it answered no reply ({e}): {}", shortened(&line)))?;
            match reply.id {
                Some(got) if got == id => Ok(reply),
                other => Err(format!("it answered to request {other:?} instead of {id}")),
            }
        });
        reply.map_err(|problem| match self.running.take() {
            Some(running) => running.end(problem),
            None => problem,
        })
    }

    fn op(&mut self, request: &OpRequest) -> Answer {
        let (inputs, outputs) = (self.folder.path("in.safetensors"), self.outputs()?);
        files::write(&inputs, &request.inputs).map_err(failed)?;
        let asked = Asked::Op {
            op: &request.op,
            dtype: dtype_name(request.dtype),
            attributes: &request.attributes,
            inputs: &inputs,
            outputs: &outputs,
        };
        let reply = self.ask(asked, None, self.limits.answer).map_err(Failure::Failed)?;
        self.read(reply, &outputs)
    }

    fn forward(&mut self, request: &ForwardRequest) -> Answer {
        let (inputs, outputs) = (self.folder.path("in.safetensors"), self.outputs()?);
        let model = self.folder.path("model");
        files::write_model(&model, &request.model).map_err(failed)?;
        files::write(&inputs, &request.inputs).map_err(failed)?;
        let asked = Asked::Forward {
            family: &request.family,
            dtype: dtype_name(request.dtype),
            model: &model,
            inputs: &inputs,
            returns: &request.returns,
            outputs: &outputs,
        };
        let reply = self.ask(asked, None, self.limits.answer).map_err(Failure::Failed)?;
        self.read(reply, &outputs)
    }

    fn expand(&mut self, request: &ExpandRequest) -> Answer {
        let (config, outputs) = (self.folder.path("config.json"), self.outputs()?);
        let model = self.folder.path("model");
        files::write_model(&model, &request.model).map_err(failed)?;
        files::write_config(&config, &request.config).map_err(failed)?;
        let asked = Asked::Expand {
            family: &request.family,
            dtype: dtype_name(request.dtype),
            model: &model,
            config: &config,
            source: &request.source,
            target: &request.target,
            outputs: &outputs,
        };
        let reply = self.ask(asked, None, self.limits.answer).map_err(Failure::Failed)?;
        self.read(reply, &outputs)
    }

    /// The file that an answer goes to; none is there.
    fn outputs(&self) -> std::result::Result<std::path::PathBuf, Failure> {
        let path = self.folder.path("out.safetensors");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Failure::Failed(format!(
                "what it left at {} cannot be removed: {e}",
                path.display()
            ))),
            _ => Ok(path),
        }
    }

    fn read(&mut self, reply: Reply, outputs: &std::path::Path) -> Answer {
        match reply {
            Reply { unsupported: Some(why), .. } => Err(Failure::Unsupported(shortened(&why))),
            Reply { error: Some(why), .. } => Err(Failure::Failed(shortened(&why))),
            Reply { ok: true, .. } => files::read(outputs).map_err(failed),
            _ => Err(Failure::Failed(
                "it answered neither `ok` nor `unsupported` nor `error`".into(),
            )),
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }
}

impl Backend for Program {
    fn about(&self) -> &About {
        &self.about
    }

    fn answer(&mut self, request: &Request) -> Answer {
        self.run().map_err(Failure::Failed)?;
        match request {
            Request::Op(request) => self.op(request),
            Request::Forward(request) => self.forward(request),
            Request::Expand(request) => self.expand(request),
        }
    }
}

fn failed(error: Error) -> Failure {
    Failure::Failed(error.to_string())
}

/// Text of a program, short and harmless to a terminal.
fn shortened(text: &str) -> String {
    let mut short: String = text.chars().take(300).collect();
    if short.len() < text.len() {
        short += " …";
    }
    printable(&short).into_owned()
}

/// A process with threads that write to it and read from it. The threads end when the pipes do;
/// nobody waits for them.
struct Running {
    child: Child,
    lines: Sender<String>,
    replies: Receiver<std::result::Result<String, String>>,
    stderr: Arc<Mutex<VecDeque<u8>>>,
    stderr_ended: Receiver<()>,
}

impl Running {
    fn start(command: &str) -> std::result::Result<Running, String> {
        let mut child = shell(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| format!("it cannot be started: {e}"))?;
        let (mut stdin, stdout, stderr) =
            match (child.stdin.take(), child.stdout.take(), child.stderr.take()) {
                (Some(stdin), Some(stdout), Some(stderr)) => (stdin, stdout, stderr),
                _ => return Err("it has no standard input and output".into()),
            };
        let (lines, to_write) = channel::<String>();
        thread::spawn(move || {
            for line in to_write {
                let written = stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush());
                if written.is_err() {
                    return;
                }
            }
        });
        let (send, replies) = sync_channel(1);
        thread::spawn(move || {
            let mut stdout = BufReader::new(stdout);
            loop {
                let line = read_line(&mut stdout);
                let last = line.is_err();
                if send.send(line).is_err() || last {
                    return;
                }
            }
        });
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let (ended, stderr_ended) = channel();
        let keep = kept.clone();
        thread::spawn(move || {
            keep_end(stderr, &keep);
            let _ = ended.send(());
        });
        Ok(Running { child, lines, replies, stderr: kept, stderr_ended })
    }

    /// Sends a line and waits for the next one that comes back.
    fn exchange(&mut self, line: String, limit: Duration) -> std::result::Result<String, String> {
        match self.replies.try_recv() {
            Ok(Ok(_)) => return Err("it wrote without being asked".into()),
            // It has ended already, or closed its output.
            Ok(why @ Err(_)) => return why,
            Err(_) => {}
        }
        // If nobody takes the line, the reader of replies has the reason.
        let _ = self.lines.send(line + "\n");
        match self.replies.recv_timeout(limit) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => {
                Err(format!("it did not answer within {} s", limit.as_secs_f64()))
            }
            Err(RecvTimeoutError::Disconnected) => Err("it has ended".into()),
        }
    }

    /// Ends the program; adds to `problem` how it ended by itself, if it did, and its last words.
    fn end(mut self, problem: String) -> String {
        let start = Instant::now();
        let mut by_itself = false;
        while problem == ENDED && !by_itself && start.elapsed() < LAST_WORDS {
            thread::sleep(Duration::from_millis(2));
            by_itself = self.has_ended();
        }
        let status = self.kill().filter(|_| by_itself);
        let _ = self.stderr_ended.recv_timeout(LAST_WORDS);
        let mut text = problem;
        if let Some(status) = status {
            text += &format!(" ({status})");
        }
        let kept = self.stderr.lock().map(|kept| kept.iter().copied().collect::<Vec<u8>>());
        let words = String::from_utf8_lossy(&kept.unwrap_or_default()).trim().to_string();
        if !words.is_empty() {
            text += "; the end of its standard error:";
            text.extend(words.lines().map(|line| format!("\n  | {}", printable(line))));
        }
        text
    }

    /// Whether the process has ended; it is not waited for, so that its number stays its own.
    #[cfg(unix)]
    fn has_ended(&mut self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        self.group().is_some_and(|group| !matches!(waitid(WaitId::Pid(group), options), Ok(None)))
    }

    #[cfg(not(unix))]
    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The process, which leads a group of its own.
    #[cfg(unix)]
    fn group(&self) -> Option<rustix::process::Pid> {
        i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw)
    }

    /// Ends the process and its children.
    fn kill(&mut self) -> Option<ExitStatus> {
        #[cfg(unix)]
        if let Some(group) = self.group() {
            use rustix::process::{Signal, kill_process_group};
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.kill();
        self.child.wait().ok()
    }
}

/// What is said of a program whose standard output ended.
const ENDED: &str = "it ended without an answer";

fn shell(command: &str) -> Command {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(command).process_group(0);
        shell
    }
    #[cfg(not(unix))]
    {
        let mut shell = Command::new("cmd");
        shell.arg("/C").arg(command);
        shell
    }
}

/// The next line, without its end; an error after which nothing more is read.
fn read_line(stdout: &mut impl BufRead) -> std::result::Result<String, String> {
    let mut line = Vec::new();
    match stdout.by_ref().take(LINE_LIMIT).read_until(b'\n', &mut line) {
        Err(e) => return Err(format!("its standard output cannot be read: {e}")),
        Ok(0) => return Err(ENDED.into()),
        Ok(_) => {}
    }
    if line.pop_if(|last| *last == b'\n').is_none() {
        return Err(match line.len() as u64 == LINE_LIMIT {
            true => format!("it answered a line of more than {LINE_LIMIT} bytes"),
            false => ENDED.into(),
        });
    }
    String::from_utf8(line).map_err(|_| "it answered a line that is no UTF-8".into())
}

/// Reads all, and keeps the end.
fn keep_end(mut stderr: impl Read, kept: &Mutex<VecDeque<u8>>) {
    let mut block = [0; 4096];
    while let Ok(count) = stderr.read(&mut block) {
        let Ok(mut kept) = kept.lock() else { return };
        if count == 0 {
            return;
        }
        kept.extend(&block[..count]);
        let excess = kept.len().saturating_sub(STDERR_LIMIT);
        kept.drain(..excess);
    }
}
