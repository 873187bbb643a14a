//! The backends in Python that lie in this repository, under `tests/backends`.

use crate::error::{Error, Result};
use crate::report::shell_word;
use std::path::Path;

/// Their names.
pub const NAMES: [&str; 4] = ["numpy", "jax", "onnxruntime", "torch"];

/// Where they lie, from the root of the repository.
const FOLDER: &str = "tests/backends";

/// The variable that names the Python to run them with.
const PYTHON: &str = "LEMON_PYTHON";

/// The command that starts the backend of this name; `None` if there is none of this name.
///
/// # Errors
/// If the repository is not where the command is run.
pub fn command(name: &str) -> Result<Option<String>> {
    if !NAMES.contains(&name) {
        return Ok(None);
    }
    let script = Path::new(FOLDER).join("serve.py");
    if !script.is_file() {
        let problem = format!("the backend {name} lies in the repository, and is not here");
        return Err(Error::bad_input(problem)
            .at(&script)
            .help("run this in the root of the repository, or give a command as --backend"));
    }
    Ok(Some(format!("{} {} {name}", shell_word(&interpreter()), script.display())))
}

/// The Python that they are run with.
pub fn interpreter() -> String {
    std::env::var(PYTHON).unwrap_or_else(|_| "python3".into())
}
