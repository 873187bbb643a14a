//! Does this larger model compute exactly what the small one computed?

pub mod checkpoint;
pub mod error;
pub mod forward;
pub mod model;

pub use error::{Class, Error, Result};
