//! Where a bench is, while it runs.

use std::{
    io::{IsTerminal as _, Write as _, stderr},
    time::Instant,
};

/// A line on the terminal that is written over; elsewhere a line for each tenth of the way.
pub struct Progress {
    name: &'static str,
    start: Instant,
    steps: u32,
    done: u32,
    terminal: bool,
}

impl Progress {
    /// A bench starts that takes this number of steps of about the same length.
    pub fn new(name: &'static str, steps: u32) -> Self {
        Self {
            name,
            start: Instant::now(),
            steps: steps.max(1),
            done: 0,
            terminal: stderr().is_terminal(),
        }
    }

    /// The next step starts.
    pub fn step(&mut self, what: &str) {
        let tenth = |done| done * 10 / self.steps;
        if self.terminal || self.done == 0 || tenth(self.done) != tenth(self.done - 1) {
            let mut left = String::new();
            if self.done > 0 {
                let each = self.start.elapsed().as_secs_f64() / f64::from(self.done);
                let seconds = each * f64::from(self.steps.saturating_sub(self.done));
                left = format!(", {seconds:.0} s left");
            }
            let percent = self.done * 100 / self.steps;
            self.write(&format!("{}: {percent:3} %{left}: {what}", self.name));
        }
        self.done += 1;
    }

    fn write(&self, text: &str) {
        // Progress that cannot be shown is no reason to stop.
        let _ = if self.terminal {
            write!(stderr(), "\r\x1b[K{text}").and_then(|()| stderr().flush())
        } else {
            writeln!(stderr(), "{text}")
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }
}
