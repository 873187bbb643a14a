//! Answers the requests of `lemon-check crosscheck`, a line of JSON each, until there are no more.

use lemon_check_wgpu::device::Device;
use lemon_check_wgpu::protocol;
use std::io::{BufRead, Write, stdin, stdout};
use std::process::ExitCode;

fn main() -> ExitCode {
    let device = Device::open();
    for line in stdin().lock().lines() {
        let Ok(line) = line else { return ExitCode::FAILURE };
        let reply = protocol::answer(&device, &line);
        if writeln!(stdout(), "{reply}").and_then(|()| stdout().flush()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
