//! The datagrams that the agent holds, also in files of its runtime directory: of an agent that is killed, what it held is sent by who
//! cleans up behind it.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::PathBuf,
};

use anyhow::{Context as _, Result};
use ondemand_core::{caught::Datagram, words::counted};

use crate::{
    host::directories,
    kernel::{Kernel, catchers::RawSockets, maps::datagrams},
};

/// Those of one service.
#[derive(Debug, Default)]
pub(super) struct Spool {
    /// `None`: there are none.
    file: Option<File>,
}

fn directory() -> PathBuf {
    directories::directory().join("datagrams")
}

impl Spool {
    /// Adds one.
    pub fn add(&mut self, service: &str, datagram: &Datagram) {
        if let Err(error) = self.try_add(service, datagram) {
            log::debug!("{service}: a datagram would not outlive this agent: {error}");
        }
    }

    fn try_add(&mut self, service: &str, datagram: &Datagram) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => {
                directories::create(&directory(), 0o700)?;
                self.file.insert(File::create(directory().join(service))?)
            }
        };
        file.write_all(&datagram.record())
    }

    /// All of them were sent, or are lost.
    pub fn clear(&mut self, service: &str) {
        if self.file.take().is_some()
            && let Err(error) = fs::remove_file(directory().join(service))
        {
            log::debug!("{service}: {error}");
        }
    }
}

/// Sends what an agent has left that was killed: to the application, if it has bound its port, or else to the front socket. Where
/// it was sending them, some come a second time.
///
/// # Errors
///
/// A file, or the kernel's buffer, cannot be read.
pub(super) fn send_left(kernel: &Kernel, raw: &RawSockets) -> Result<()> {
    let directory = directory();
    let mut left = Vec::new();
    match fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        files => {
            for file in files.with_context(|| format!("list {}", directory.display()))? {
                let path = file?.path();
                let what = || format!("read {}", path.display());
                left.extend(Datagram::of_records(&fs::read(&path).with_context(what)?));
                fs::remove_file(&path).with_context(what)?;
            }
        }
    }
    // Those that it has not read are newer.
    left.extend(datagrams::unread(kernel)?);
    let results = left
        .iter()
        .map(|it| raw.send(it.to, it.device, &it.to_send()));
    let sent = results.filter(Result::is_ok).count();
    if !left.is_empty() {
        log::warn!(
            "sent {sent} of {} that the agent held when it was killed",
            counted(left.len() as u64, "datagram")
        );
    }
    Ok(())
}
