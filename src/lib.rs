//! Does this larger model compute exactly what the small one computed?

pub mod certify;
pub mod check;
pub mod checkpoint;
pub mod cli;
pub mod compare;
pub mod error;
pub mod expand;
pub mod forward;
pub mod model;
pub mod report;
pub mod testing;

pub use error::{Class, Error, Result};
