//! Runs the program of `veto =` before a stop.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use ondemand_core::{lifecycle::Answer, words::Span};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
};

/// Maximum run time of the program. A slower program is killed, and the service is kept up.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for output that is left in the pipe when the program exits.
const LAST_WORDS: Duration = Duration::from_millis(100);
/// Maximum length of the kept first line. Bytes.
const LONGEST_LINE: usize = 200;

/// The input of the program.
#[derive(Clone, Debug)]
pub struct Question {
    /// The program of `veto =`.
    pub program: PathBuf,
    /// `ONDEMAND_SERVICE`: the service's name.
    pub service: String,
    /// `ONDEMAND_UNIT`: the application's unit.
    pub unit: String,
    /// `ONDEMAND_IDLE_SECONDS`: how long the service has been unused.
    pub quiet: Duration,
}

/// The program's answer, and the first line of its output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Whether the service may be stopped.
    pub answer: Answer,
    /// The line for the log, if it may. Otherwise the line is in the answer.
    pub line: Option<String>,
}

/// Runs the program in a process group of its own. The group is killed when the program takes
/// longer than `timeout`, or when the future is dropped. Any error keeps the service up.
pub async fn ask(question: Question, timeout: Duration) -> Reply {
    let name = question.program.display().to_string();
    let keep = |why: String| Reply {
        answer: Answer::Keep(why),
        line: None,
    };
    let mut child = match spawn(&question) {
        Ok(child) => child,
        Err(error) => {
            log::warn!("{}: {name} cannot be run: {error}", question.service);
            return keep(format!("{name} cannot be run: {error}"));
        }
    };
    let group = Group(child.id());
    let output = (child.stdout.take(), child.stderr.take());
    let ended = tokio::time::timeout(timeout, finish(&mut child, output)).await;
    match ended {
        Ok(Ok((status, line))) => {
            // Processes that it leaves in the background are not managed here.
            group.spare();
            if status.success() {
                return Reply {
                    answer: Answer::Allow,
                    line,
                };
            }
            keep(match line {
                Some(line) => format!("{name} says: {line}"),
                None => format!("{name} exited with {status}"),
            })
        }
        Ok(Err(error)) => keep(format!("wait for {name}: {error}")),
        Err(_) => keep(format!("{name} did not exit within {}", Span(timeout))),
    }
}

fn spawn(question: &Question) -> std::io::Result<Child> {
    Command::new(&question.program)
        .env("ONDEMAND_SERVICE", &question.service)
        .env("ONDEMAND_UNIT", &question.unit)
        .env(
            "ONDEMAND_IDLE_SECONDS",
            question.quiet.as_secs().to_string(),
        )
        // It must not notify systemd in the agent's name.
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_PID")
        .env_remove("WATCHDOG_USEC")
        .current_dir(Path::new("/"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Waits for the program's exit. Returns the first line of its output, or of its errors if there is none.
async fn finish(
    child: &mut Child,
    (stdout, stderr): (
        Option<impl AsyncRead + Unpin>,
        Option<impl AsyncRead + Unpin>,
    ),
) -> std::io::Result<(ExitStatus, Option<String>)> {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let status = {
        let drain = async { tokio::join!(drain(stdout, &mut out), drain(stderr, &mut err)) };
        tokio::pin!(drain);
        let mut drained = false;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                _ = &mut drain, if !drained => drained = true,
            }
        };
        if !drained {
            // A background process may keep the pipe open.
            let _ = tokio::time::timeout(LAST_WORDS, drain).await;
        }
        status
    };
    Ok((status, first_line(&out).or_else(|| first_line(&err))))
}

/// Reads to the end, so that the program never blocks on its output, and keeps the first part.
async fn drain(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>) {
    let Some(mut pipe) = pipe else { return };
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let room = buffer.len().saturating_sub(kept.len());
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}

fn first_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    let end = line
        .char_indices()
        .map(|(at, _)| at)
        .find(|at| *at >= LONGEST_LINE);
    Some(
        line[..end.unwrap_or(line.len())]
            .chars()
            .map(printable)
            .collect(),
    )
}

/// Kills the whole process group when it is dropped.
struct Group(Option<u32>);

impl Group {
    fn spare(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(id) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // It fails if the group is empty, which is the goal.
            let _ = killpg(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _, time::Instant};

    use super::*;

    struct Case {
        directory: tempfile::TempDir,
        program: PathBuf,
    }

    fn script(body: &str) -> Case {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("checker");
        fs::write(&program, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Case { directory, program }
    }

    async fn run(program: &Path, timeout: Duration) -> Reply {
        let question = Question {
            program: program.to_owned(),
            service: "wiki".into(),
            unit: "wiki.service".into(),
            quiet: Duration::from_millis(61_900),
        };
        // A test that forks at the same time may have this file open for writing.
        for _ in 0..100 {
            let reply = ask(question.clone(), timeout).await;
            if !matches!(&reply.answer, Answer::Keep(why) if why.contains("os error 26")) {
                return reply;
            }
            tokio::task::yield_now().await;
        }
        panic!("{} stays busy", program.display());
    }

    #[track_caller]
    fn check(body: &str, expected: Result<Option<&str>, &str>) {
        let case = script(body);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let reply = runtime.block_on(run(&case.program, TIMEOUT));
        let program = case.program.display().to_string();
        let expected = match expected {
            Ok(line) => Reply {
                answer: Answer::Allow,
                line: line.map(str::to_owned),
            },
            Err(why) => Reply {
                answer: Answer::Keep(format!("{program} {why}")),
                line: None,
            },
        };
        assert_eq!(reply, expected);
    }

    #[test]
    fn answers() {
        check("exit 0", Ok(None));
        check("echo fine; echo more", Ok(Some("fine")));
        check("exit 1", Err("exited with exit status: 1"));
        check("echo backup; exit 3", Err("says: backup"));
        check("echo broken >&2; exit 3", Err("says: broken"));
        check(
            "echo error >&2; echo; echo '  out '; exit 1",
            Err("says: out"),
        );
        check("kill -9 $$", Err("exited with signal: 9 (SIGKILL)"));
        check("printf '\\033[1mbold\\n'; exit 1", Err("says:  [1mbold"));
        // More than a pipe's capacity.
        check(
            "head -c 200000 /dev/zero | tr '\\0' x | fold -w 80; exit 0",
            Ok(Some(&"x".repeat(80))),
        );
        // A background process keeps the pipe open.
        check("echo ok; sleep 30 & exit 0", Ok(Some("ok")));
        check(
            "echo $ONDEMAND_SERVICE $ONDEMAND_UNIT $ONDEMAND_IDLE_SECONDS ${NOTIFY_SOCKET-none}",
            Ok(Some("wiki wiki.service 61 none")),
        );
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_with_all_its_children() {
        let case = script("sleep 1000 & echo $! > \"$0.pid\"; wait");
        let begin = Instant::now();
        let reply = run(&case.program, Duration::from_millis(500)).await;
        assert!(begin.elapsed() < Duration::from_secs(5));
        let why = format!("{} did not exit within 500 ms", case.program.display());
        assert_eq!(reply.answer, Answer::Keep(why));
        let pid = fs::read_to_string(case.directory.path().join("checker.pid")).unwrap();
        let state = Path::new("/proc").join(pid.trim()).join("stat");
        let deadline = Instant::now() + Duration::from_secs(5);
        // It is gone, or a zombie that was not reaped yet.
        while fs::read_to_string(&state).is_ok_and(|stat| !stat.contains(") Z ")) {
            assert!(Instant::now() < deadline, "the child {pid} still runs");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_program_that_cannot_be_run_keeps_it_up() {
        let reply = run(Path::new("/nonexistent/checker"), TIMEOUT).await;
        let Answer::Keep(why) = reply.answer else {
            panic!("allowed");
        };
        assert_eq!(
            why,
            "/nonexistent/checker cannot be run: No such file or directory (os error 2)"
        );
    }
}
