//! The checkpoints of golden cases, as they are and with other configurations.

use lemon_check::checkpoint::{Checkpoint, Config};
use std::path::Path;

/// The golden case of this name.
pub fn load(case: &str) -> Checkpoint {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case);
    Checkpoint::open(&folder, None).unwrap()
}

/// The golden case with `change` made to its configuration.
pub fn changed(case: &str, change: impl FnOnce(&mut Config)) -> Checkpoint {
    let stored = load(case);
    let mut config = stored.config().clone();
    change(&mut config);
    Checkpoint::in_memory(stored.path(), config, stored.tensors().clone())
}
