//! `ondemand` for the tests that leave out a step of the stop protocol: see
//! [`ondemand::host::ablation`]. A program of its own, so that nobody mistakes it for the real one.

#[path = "../main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
