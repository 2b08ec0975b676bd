//! Programs that read their standard input.

use std::{
    io::{self, Write as _},
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

/// Calls a program with this input, and waits for its end.
///
/// # Errors
///
/// It cannot be run.
pub fn call(program: &Path, arguments: &[&str], input: &[u8]) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdin = child.stdin.take();
    let input = input.to_vec();
    // It may end before it has read all of it.
    let writer = thread::spawn(move || stdin.map(|mut stdin| stdin.write_all(&input)));
    let output = child.wait_with_output();
    let _ = writer.join();
    output
}
