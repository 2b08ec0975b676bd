//! Clients that hold many connections and do nothing else.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, bail};
use tests::sandbox::Sandbox;

use crate::fleet::Member;

/// Connections of one client process: both the usual limit of descriptors and the ports of one
/// address allow for more.
const EACH: u32 = 10_000;

/// The program, inside.
const PROGRAM: &str = "/usr/bin/test-holder";

/// Running clients.
pub struct Holders(Vec<Holder>);

struct Holder {
    process: Child,
    end: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Holders {
    /// Opens this number of connections, evenly to these services, and waits until all are open.
    ///
    /// # Errors
    ///
    /// One cannot be opened.
    pub fn open(sandbox: &Sandbox, members: &[Member], connections: u32) -> Result<Self> {
        let mut left = connections;
        let mut holders = Vec::new();
        // Addresses of their own: to one front socket an address has 28,000 ports.
        for place in 1.. {
            if left == 0 {
                break;
            }
            let some = left.min(EACH);
            left -= some;
            // Each starts where the one before ended, so that the services get the same number.
            let begin = ((place - 1) * EACH) as usize % members.len();
            let targets: Vec<String> = members[begin..]
                .iter()
                .chain(&members[..begin])
                .map(|member| format!("127.0.0.1:{}", member.front))
                .collect();
            let mut process = sandbox
                .command(PROGRAM)
                .args(["--connect", &targets.join(",")])
                .args(["--connections", &some.to_string()])
                .args(["--from", &format!("127.1.0.{place}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("run test-holder")?;
            let output = process.stdout.take().context("its output")?;
            holders.push(Holder {
                end: process.stdin.take(),
                process,
                output: BufReader::new(output),
            });
        }
        let mut holders = Self(holders);
        for holder in &mut holders.0 {
            holder.expect("held")?;
        }
        Ok(holders)
    }

    /// Ends all connections; returns how many had ended before.
    ///
    /// # Errors
    ///
    /// A client has ended.
    pub fn close(mut self) -> Result<u32> {
        for holder in &mut self.0 {
            drop(holder.end.take());
        }
        let mut lost = 0;
        for mut holder in self.0.drain(..) {
            let number = holder.expect("lost ")?;
            lost += number.parse::<u32>().context("what test-holder lost")?;
            holder.process.wait().context("wait for test-holder")?;
        }
        Ok(lost)
    }
}

impl Drop for Holders {
    /// Those that were not closed, because something went wrong.
    fn drop(&mut self) {
        for holder in &mut self.0 {
            // It may have ended by itself.
            let _ = holder.process.kill();
            let _ = holder.process.wait();
        }
    }
}

impl Holder {
    /// The rest of its next line, which starts with this.
    fn expect(&mut self, begin: &str) -> Result<String> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        if let Some(rest) = line.trim_end().strip_prefix(begin) {
            return Ok(rest.to_owned());
        }
        let mut error = String::new();
        if let Some(stderr) = &mut self.process.stderr {
            stderr.read_to_string(&mut error)?;
        }
        bail!("no {begin:?} from test-holder: {line}{error}");
    }
}
