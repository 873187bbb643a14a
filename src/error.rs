//! The one public error.
//!
//! An error means that no verdict can be given: a file is unreadable, a model is of a kind that is
//! not implemented, an expansion cannot be lossless. A *finding* about two readable models is never
//! an error.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};

/// Short for a result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of error it is, which decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The command line asks for something contradictory.
    Usage,
    /// A file is missing, damaged, or contradicts itself.
    BadInput,
    /// A field, layer or layout that is not implemented: no verdict can be given.
    Unsupported,
    /// An expansion that cannot be lossless was asked for.
    Refused,
}

/// Says what is wrong, where, and what to do next.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    class: Class,
    path: Option<PathBuf>,
    subject: Option<String>,
    problem: String,
    help: Option<String>,
    source: Option<std::io::Error>,
}

impl Error {
    /// An error of `class` with the `problem` in words.
    pub fn new(class: Class, problem: impl Into<String>) -> Self {
        Error(Box::new(Inner {
            class,
            path: None,
            subject: None,
            problem: problem.into(),
            help: None,
            source: None,
        }))
    }

    /// A damaged or contradictory input.
    pub fn bad_input(problem: impl Into<String>) -> Self {
        Self::new(Class::BadInput, problem)
    }

    /// Something that is not implemented, so that no verdict can be given.
    pub fn unsupported(problem: impl Into<String>) -> Self {
        Self::new(Class::Unsupported, problem)
    }

    /// An expansion that cannot be lossless.
    pub fn refused(problem: impl Into<String>) -> Self {
        Self::new(Class::Refused, problem)
    }

    /// A failure of the operating system while doing `what` (such as "read the header").
    pub fn io(path: &Path, what: &str, source: std::io::Error) -> Self {
        let mut error = Self::bad_input(format!("cannot {what}: {source}")).at(path);
        error.0.source = Some(source);
        error
    }

    /// Adds the file (kept if one is set already).
    pub fn at(mut self, path: &Path) -> Self {
        self.0.path.get_or_insert_with(|| path.to_path_buf());
        self
    }

    /// Adds the tensor that the error is about.
    pub fn tensor(mut self, name: &str) -> Self {
        self.0.subject.get_or_insert_with(|| format!("tensor `{name}`"));
        self
    }

    /// Adds the configuration field that the error is about.
    pub fn field(mut self, name: &str) -> Self {
        self.0.subject.get_or_insert_with(|| format!("field `{name}`"));
        self
    }

    /// Adds what to do next.
    pub fn help(mut self, advice: impl Into<String>) -> Self {
        self.0.help.get_or_insert_with(|| advice.into());
        self
    }

    /// The problem and what to do about it, in one line, for another error's help.
    pub(crate) fn advice(&self) -> String {
        match &self.0.help {
            Some(help) => format!("{}: {help}", self.0.problem),
            None => self.0.problem.clone(),
        }
    }

    /// The kind of error.
    pub fn class(&self) -> Class {
        self.0.class
    }
}

/// `text` with what could steer a terminal written as an escape (`\u{1b}`): control characters,
/// line breaks included, and marks that turn the direction of text. Names in files may hold them.
pub fn printable(text: &str) -> Cow<'_, str> {
    let steers =
        |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let escape = |c: char| if steers(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(escape).collect())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = &self.0.path {
            write!(f, "{}: ", printable(&path.display().to_string()))?;
        }
        if let Some(subject) = &self.0.subject {
            write!(f, "{}: ", printable(subject))?;
        }
        write!(f, "{}", printable(&self.0.problem))?;
        if let Some(help) = &self.0.help {
            write!(f, "\n  help: {}", printable(help))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|e| e as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_cannot_steer_a_terminal() {
        let error = Error::bad_input("a\u{1b}[31mb").tensor("c\nd").help("e\u{202e}f ε");
        let shown = error.at(Path::new("g\rh")).to_string();
        let expected = r"g\rh: tensor `c\nd`: a\u{1b}[31mb";
        assert_eq!(shown, format!("{expected}\n  help: {}", r"e\u{202e}f ε"));
    }
}
