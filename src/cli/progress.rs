//! A progress bar on a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, stderr};

/// A bar on standard error; invisible where that is no terminal.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar that counts bytes; it appears with the first call of [`Progress::set`].
    pub fn new() -> Self {
        let target = match stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("{bar:32} {bytes}/{total_bytes} {msg}")
            .expect("the template is well formed");
        bar.set_style(style);
        Progress(bar)
    }

    /// `done` bytes of `total` are checked.
    pub fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done.min(total));
        if done >= total {
            self.0.set_message("looking at outputs");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
