//! The command line tool.

fn main() -> std::process::ExitCode {
    lemon_check::cli::main()
}
