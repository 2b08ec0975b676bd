//! The verifier's log for a program that the kernel refuses: pages of text for the program's
//! developers. It is saved to a file, and the error names the file.

use std::{fs, io, path::Path};

use anyhow::{Error, anyhow};
use aya::programs::ProgramError;

use super::load::REPORTS;
use crate::host::{atomic_file, directories};

/// Returns the error of a load; saves the verifier's log, if any, in a directory of root's.
pub fn refused(program: &str, error: ProgramError) -> Error {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => saved(
            Path::new(REPORTS),
            program,
            &io_error,
            &verifier_log.to_string(),
        ),
        error => Error::from(error).context(format!("load the program {program}")),
    }
}

fn saved(directory: &Path, program: &str, error: &io::Error, log: &str) -> Error {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let refusal = format!(
        "Linux {} refuses the program {program}: {error}",
        release.trim()
    );
    if log.is_empty() {
        return anyhow!(refusal);
    }
    let path = directory.join(format!("verifier-{program}.log"));
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("ondemand {version}: {refusal}\n{log}\n");
    let written = directories::create(directory, 0o755)
        .and_then(|()| atomic_file::replace(&path, text.as_bytes(), 0o644));
    match written {
        Ok(()) => anyhow!(
            "{refusal}; the verifier's log is in {}: please report it",
            path.display()
        ),
        Err(error) => anyhow!(
            "{refusal}; the verifier's log could not be written to {}: {error}",
            path.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use aya::{EbpfLoader, programs::SockOps};

    use super::*;
    use crate::kernel::{OBJECT, load::program, requirements};
    /// An offset that no kernel struct has: the verifier refuses it.
    /// Where the member of another kernel's struct might be: the verifier knows better.
    const NOWHERE: u32 = 1_000_000;

    #[test]
    fn a_real_refusal_is_saved_and_told_in_one_line() {
        let reason = requirements::privilege().err();
        ::tests::require!(reason.map(|reason| format!("{reason:#}")));
        let mut ebpf = EbpfLoader::new()
            .override_global("OFFSET_FLAGS", &NOWHERE, true)
            .load(OBJECT)
            .unwrap();
        let connections: &mut SockOps = program(&mut ebpf, "connections").unwrap();
        let error = connections.load().unwrap_err();
        let directory = tempfile::tempdir().unwrap();
        // The directory does not exist yet, as when the agent is run by hand.
        let runtime = directory.path().join("ondemand");
        let ProgramError::LoadError {
            io_error,
            verifier_log,
        } = error
        else {
            panic!("{error}");
        };
        let log = verifier_log.to_string();
        let text = format!("{:#}", saved(&runtime, "connections", &io_error, &log));
        let path = runtime.join("verifier-connections.log");
        assert!(text.contains(&path.display().to_string()), "{text}");
        assert!(!text.contains('\n') && text.len() < 400, "{text}");
        let log = fs::read_to_string(&path).unwrap();
        assert!(log.contains("1000000"), "{log}");
        assert!(log.lines().count() > 10, "{log}");
    }

    #[test]
    fn what_cannot_be_saved_is_said() {
        let error = io::ErrorKind::PermissionDenied.into();
        let directory = Path::new("/dev/null/ondemand");
        let text = format!("{:#}", saved(directory, "steering", &error, "R1 invalid"));
        let expected = "could not be written to /dev/null/ondemand/verifier-steering.log: ";
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("R1"), "{text}");
    }
}
