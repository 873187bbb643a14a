//! Why there is no answer.

use std::fmt;

/// Why a request has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It asks for what this backend does not do.
    Unsupported(String),
    /// It is no proper request, or the device failed.
    Error(String),
}

/// A result that may fail.
pub type Result<T> = std::result::Result<T, Failure>;

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Failure::Unsupported(what) => write!(f, "not supported: {what}"),
            Failure::Error(what) => write!(f, "{what}"),
        }
    }
}

impl std::error::Error for Failure {}

/// An error in words.
pub fn error(what: impl fmt::Display) -> Failure {
    Failure::Error(what.to_string())
}
