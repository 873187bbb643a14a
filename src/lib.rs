//! Does this larger model compute exactly what the small one computed?

pub mod certify;
pub mod checkpoint;
pub mod error;
pub mod model;

pub use error::{Class, Error, Result};
