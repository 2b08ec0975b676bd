//! What people use today: systemd-socket-proxyd, and something that stops the application.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::sandbox::Sandbox;

/// What people write: a loop (in real life a timer) that looks for connections with ss and
/// stops the unit if it saw none for the timeout. `classic-checker UNIT PORT TIMEOUT_MS`.
const CHECKER: &str = r#"#!/bin/bash
quiet=0
while sleep 0.05; do
    if [ "$(systemctl is-active "$1")" != active ]; then quiet=0; continue; fi
    if ss -Htn state established "( sport = :$2 )" | grep -q .; then quiet=0; continue; fi
    quiet=$((quiet + 50))
    if [ $quiet -ge "$3" ]; then systemctl stop "$1"; quiet=0; fi
done
"#;

/// What stops the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// A checker script stops the application.
    StopBackend,
    /// A checker script stops the proxy, and systemd the application that nothing needs then.
    StopProxy,
    /// The proxy ends by itself, and systemd stops the application that nothing needs then.
    ExitIdle,
}

/// One service in the classic layout.
#[derive(Clone, Debug)]
pub struct Classic {
    /// Its units are `NAME.socket`, `NAME.service` (the proxy) and `NAME-app.service`.
    pub name: String,
    /// The front socket's port on 127.0.0.1.
    pub front: u16,
    /// The application's.
    pub backend: u16,
    /// What stops it.
    pub end: End,
    /// When.
    pub idle: Duration,
}

impl Classic {
    /// Writes socket, proxy and application as the manual of systemd-socket-proxyd shows them,
    /// but for the limits, which a burst of clients would run into.
    ///
    /// # Errors
    ///
    /// They cannot be written.
    pub fn write(&self, sandbox: &Sandbox) -> Result<()> {
        let Self {
            name,
            front,
            backend,
            end,
            idle,
        } = self;
        let unit = |file: String, text: String| {
            sandbox.write(&format!("/etc/systemd/system/{file}"), text)
        };
        unit(
            format!("{name}.socket"),
            format!(
                "[Socket]\nListenStream=127.0.0.1:{front}\nBacklog=4096\nTriggerLimitIntervalSec=0\n"
            ),
        )?;
        let exit = match end {
            End::ExitIdle => format!("--exit-idle-time={}ms ", idle.as_millis()),
            End::StopBackend | End::StopProxy => String::new(),
        };
        unit(
            format!("{name}.service"),
            format!(
                "[Unit]\nRequires={name}-app.service\nAfter={name}-app.service\n\
                 StartLimitIntervalSec=0\n[Service]\n\
                 ExecStart=/lib/systemd/systemd-socket-proxyd {exit}127.0.0.1:{backend}\n\
                 LimitNOFILE=65536\n"
            ),
        )?;
        let unneeded = match end {
            End::StopBackend => "",
            End::StopProxy | End::ExitIdle => "StopWhenUnneeded=yes\n",
        };
        unit(
            format!("{name}-app.service"),
            format!(
                "[Unit]\nStartLimitIntervalSec=0\n{unneeded}[Service]\nType=notify\n\
                 ExecStart=/usr/bin/test-backend --notify --listen 127.0.0.1:{backend}\n"
            ),
        )
    }

    /// Starts the front socket, and the checker script if there is one. systemd must have been
    /// reloaded.
    ///
    /// # Errors
    ///
    /// Something does not start.
    pub fn start(&self, sandbox: &Sandbox) -> Result<Option<Checking>> {
        let socket = format!("{}.socket", self.name);
        sandbox.run(&["systemctl", "start", &socket])?;
        let unit = match self.end {
            End::StopBackend => self.application(),
            End::StopProxy => format!("{}.service", self.name),
            End::ExitIdle => return Ok(None),
        };
        let script = "/usr/bin/classic-checker";
        if !sandbox.path(script).exists() {
            sandbox.write(script, CHECKER)?;
            sandbox.run(&["chmod", "755", script])?;
        }
        let (port, idle) = (self.backend.to_string(), self.idle.as_millis().to_string());
        let mut command = sandbox.command(script);
        // systemctl warns of every stop that the socket may start it again, which is wanted.
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.args([&unit, &port, &idle]).spawn();
        Ok(Some(Checking(child.context("run the checker script")?)))
    }

    /// The number of stops of the application in its journal.
    pub fn stops(&self, sandbox: &Sandbox) -> usize {
        sandbox
            .journal(&self.application())
            .matches("Stopped")
            .count()
    }

    fn application(&self) -> String {
        format!("{}-app.service", self.name)
    }
}

/// A checker script at work. Dropping it ends it.
pub struct Checking(Child);

impl Drop for Checking {
    fn drop(&mut self) {
        // It may have ended by itself, and there is nothing to be done about it here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
