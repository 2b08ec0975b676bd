//! `ondemand` for the tests that leave out a step of the stop protocol: see
//! [`ondemand::host::ablation`]. It is a separate program, so that it is not used by mistake.

#[path = "../main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}
