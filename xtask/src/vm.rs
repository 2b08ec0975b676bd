//! `cargo xtask test --vm`: the main story and the tests of steering on kernels that others have.
//!
//! Debian's own kernels and QEMU are unpacked below target/, not installed. The machine is
//! emulated, so that no KVM is needed: everything in it is ten times slower and more, which
//! `tests::patience` is for.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tests::{built, source_tree, target_directory};

use crate::{
    build,
    command::{Step, run},
    tools::{Missing, is_there},
};

/// By default, tests of whole systems run whose names contain one of these.
const TESTS: [&str; 10] = [
    "steering::",
    "steering_faults::",
    "own_address::an_application_keeps",
    "datagrams::a_datagram_starts",
    "freeze::the_memory",
    "real_clock::",
    // What a boot may bring.
    "late_configuration::",
    "looked_at_again::",
    "no_sock_diag::",
    "upgrade::",
];
/// A machine is ended after this time, whatever it does.
const DEADLINE: Duration = Duration::from_secs(60 * 60);
/// For how long a machine that suspends itself is left so.
const SUSPENDED: Duration = Duration::from_secs(20);
const QEMU: &str = "qemu-system-x86_64";
/// The prefix of the job's exit code in its output.
const END: &str = "vm: exit ";

/// Where everything is kept.
fn home() -> PathBuf {
    target_directory()
        .unwrap_or_else(|_| source_tree().join("target"))
        .join("vm")
}

fn tools() -> PathBuf {
    home().join("tools")
}

fn linux(kernel: &str) -> PathBuf {
    home().join(format!("linux-{kernel}"))
}

fn busybox() -> PathBuf {
    tools().join("bin/busybox")
}

/// What is not there of QEMU, busybox and these kernels.
pub fn missing(kernels: &[String]) -> Vec<Missing> {
    let mut missing = Vec::new();
    let tools = tools();
    if !is_there(QEMU) && !tools.join("usr/bin").join(QEMU).exists() {
        // Everything that it depends on and this machine does not have is downloaded with it.
        missing.push(Missing {
            what: "QEMU, to emulate a machine".into(),
            how: vec![in_directory(
                &tools,
                "mkdir -p debs/partial && apt-get -o Dir::Cache::archives=\"$PWD/debs\" \
                 -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=300 --yes \
                 --no-install-recommends --download-only install qemu-system-x86 && \
                 for deb in debs/*.deb; do dpkg-deb -x \"$deb\" .; done && rm -r debs",
            )],
        });
    }
    if !busybox().exists() {
        missing.push(Missing {
            what: "busybox, for an initramfs".into(),
            how: vec![in_directory(
                &tools,
                "apt-get -o APT::Sandbox::User=root download busybox-static && \
                 dpkg-deb -x busybox-static_*.deb . && rm busybox-static_*.deb",
            )],
        });
    }
    for kernel in kernels {
        if linux(kernel).join("boot").is_dir() {
            continue;
        }
        let pattern = kernel.replace('.', "\\.");
        // The newest one that is neither for clouds nor for real time. The modules are those that
        // tests/vm/image.sh chooses from.
        let script = format!(
            "package=$(apt-cache search --names-only '^linux-image-{pattern}\\.[0-9].*-amd64$' | \
             cut -d' ' -f1 | grep -vE -e '-(cloud|rt)-' | sort -V | tail -n 1) && \
             {{ [ -n \"$package\" ] || \
             {{ echo \"no source of apt here has Linux {kernel}: choose others, --vm=KERNEL\"; exit 1; }}; }} && \
             apt-get -o APT::Sandbox::User=root download \"$package\" && \
             dpkg-deb --fsys-tarfile linux-image-*.deb | tar -x --wildcards './lib/modules/*/modules.*' \
             './lib/modules/*/kernel/arch/*' './lib/modules/*/kernel/crypto/*' \
             './lib/modules/*/kernel/drivers/block/*' './lib/modules/*/kernel/drivers/virtio/*' './lib/modules/*/kernel/drivers/net/veth.*' \
             './lib/modules/*/kernel/fs/*' './lib/modules/*/kernel/lib/*' './lib/modules/*/kernel/net/*' \
             './boot/vmlinuz-*' && rm linux-image-*.deb"
        );
        missing.push(Missing {
            what: format!("Debian's Linux {kernel}").into(),
            how: vec![in_directory(&linux(kernel), &script)],
        });
    }
    missing
}

fn in_directory(directory: &Path, script: &str) -> Step {
    let directory = directory.display();
    Step::new(&[
        "sh",
        "-c",
        &format!("mkdir -p '{directory}' && cd '{directory}' && {script}"),
    ])
}

/// Boots each kernel and runs the main story and the tests in it, or only those whose names contain `filter`.
///
/// # Errors
///
/// A test failed on one of them, or a machine did not boot or did not finish.
pub fn test(kernels: &[String], filter: Option<&str>) -> Result<()> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "the kernels are those for amd64, and the programs for this machine are not"
    );
    build::debug()?;
    let system = system_tests()?;
    let filters = filter.map_or(TESTS.to_vec(), |filter| vec![filter]);
    let story = match filter {
        Some(_) => "",
        None => "step XTASK run --built\n",
    };
    let home = home();
    let disk = home.join("disk.img");
    let job = home.join("job");
    let xtask = built("xtask")?;
    let story = story.replace("XTASK", &xtask.display().to_string());
    let program = built("ondemand")?;
    fs::write(&job, script(&program, &story, &system, &filters)).context("write the job")?;
    let built = ["ondemand", "test-backend", "test-holder"].map(built);
    let programs: Vec<PathBuf> = built.into_iter().collect::<Result<_>>()?;
    let programs = [&[xtask, system][..], &programs].concat();
    image("disk", [&disk, &job].into_iter().chain(&programs))?;
    let mut failed = Vec::new();
    for kernel in kernels {
        let initrd = home.join(format!("initrd-{kernel}"));
        image("initrd", [&initrd, &linux(kernel), &busybox()])?;
        if let Err(error) = boot(kernel, &disk, &initrd) {
            println!("Linux {kernel}: {error:#}");
            failed.push(kernel.as_str());
        }
    }
    ensure!(failed.is_empty(), "failed on Linux {}", failed.join(", "));
    Ok(())
}

/// Runs tests/vm/image.sh.
fn image<'a>(what: &str, arguments: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    let script = source_tree().join("tests/vm/image.sh");
    let arguments: Vec<String> = arguments
        .into_iter()
        .map(|path| path.display().to_string())
        .collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    run(&Step::new(&[&script.to_string_lossy(), what]).args(&arguments))
}

/// Builds the tests of whole systems, and returns their paths.
fn system_tests() -> Result<PathBuf> {
    let words = ["test", "--test", "system", "--no-run"];
    run(&Step::cargo(&words))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(words)
        .args(["--quiet", "--message-format=json"])
        .current_dir(source_tree())
        .stderr(Stdio::inherit())
        .output()
        .context("list the tests with cargo")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == "system")
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .context("cargo names no program with the tests of whole systems")
}

/// What the machine's systemd runs.
fn script(program: &Path, story: &str, system: &Path, filters: &[&str]) -> String {
    format!(
        "exec >/dev/ttyS1 2>&1 </dev/null\n\
         stty -F /dev/ttyS1 -onlcr\n\
         export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root\n\
         export ONDEMAND_TEST_PATIENCE=20 ONDEMAND_OWN_MACHINE=1\n\
         failed=0\n\
         step() {{ echo \"==> $*\"; \"$@\" || failed=1; }}\n\
         echo \"Linux $(uname -r), PID 1 is $(readlink /proc/1/exe), $(systemctl --version | head -n 1)\"\n\
         # Programs that are refused cost a way of serving clients, not the start.\n\
         mount -t bpf bpf /sys/fs/bpf 2>/dev/null; mkdir -p /etc/ondemand; : >/etc/ondemand/ondemand.toml\n\
         refused() {{ tail -n 30 /run/ondemand-load/verifier-* 2>/dev/null; }}\n\
         step {program} load --user=root\n\
         ! refused || failed=1\n\
         rm -rf /sys/fs/bpf/ondemand /run/ondemand-load /etc/ondemand\n\
         {story}\
         step {system} --test-threads=1 {filters}\n\
         echo '{END}'$failed\n",
        program = program.display(),
        system = system.display(),
        filters = filters.join(" "),
    )
}

/// Boots a kernel, prints the job's output, and returns whether it succeeded.
fn boot(kernel: &str, disk: &Path, initrd: &Path) -> Result<()> {
    let start = Instant::now();
    let log = home().join(format!("{kernel}.log"));
    let console = home().join(format!("{kernel}.console.log"));
    let control = home().join(format!("{kernel}.qmp"));
    let mut machine = start_machine(kernel, disk, initrd, &console, &control)?;
    let waker = thread::spawn(move || wake(&control));
    let output = machine.stdout.take().context("no output")?;
    let reader = {
        let log = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let kernel = kernel.to_owned();
        thread::spawn(move || show(output, log, &kernel, start))
    };
    let in_time = loop {
        if machine.try_wait().context("wait for QEMU")?.is_some() {
            break true;
        }
        if start.elapsed() > DEADLINE {
            machine.kill().context("end QEMU")?;
            machine.wait().context("wait for QEMU")?;
            break false;
        }
        thread::sleep(Duration::from_millis(200));
    };
    let end = reader.join().ok().flatten();
    // QEMU has closed its end.
    if let Ok(Err(error)) = waker.join() {
        println!("Linux {kernel}: it cannot be woken from a suspend: {error:#}");
    }
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    let logs = format!("{}, {}", log.display(), console.display());
    match end.as_deref() {
        Some("0") => println!("Linux {kernel}: passed after {minutes:.1} min; {logs}"),
        Some(_) => bail!("a test failed: {logs}"),
        None if in_time => bail!("it did not get to the end of the tests: {logs}"),
        None => bail!("ended after {minutes:.0} min: {logs}"),
    }
    Ok(())
}

/// QEMU with the console of the kernel in a file, and a second serial line for the job on its
/// standard output. `control`: where it takes commands.
fn start_machine(
    kernel: &str,
    disk: &Path,
    initrd: &Path,
    console: &Path,
    control: &Path,
) -> Result<Child> {
    let boot = linux(kernel).join("boot");
    let image = fs::read_dir(&boot)
        .with_context(|| format!("list {}", boot.display()))?
        .find_map(|entry| Some(entry.ok()?.path()))
        .with_context(|| format!("no kernel in {}", boot.display()))?;
    let mut command = if is_there(QEMU) {
        Command::new(QEMU)
    } else {
        let tools = tools();
        let library = |directory: &str| tools.join(directory).join("x86_64-linux-gnu");
        let libraries = [library("lib"), library("usr/lib")];
        let mut command = Command::new(tools.join("usr/bin").join(QEMU));
        command
            .env("LD_LIBRARY_PATH", std::env::join_paths(&libraries)?)
            .env("QEMU_MODULE_DIR", library("usr/lib").join("qemu"));
        for firmware in ["qemu", "seabios"] {
            command
                .arg("-L")
                .arg(tools.join("usr/share").join(firmware));
        }
        command
    };
    command
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initrd)
        .arg("-append")
        .arg("console=ttyS0 panic=-1 mitigations=off systemd.show_status=no systemd.log_target=console")
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", control.display()))
        .args(["-global", "PIIX4_PM.disable_s3=0"])
        .args(["-serial", "stdio", "-drive"])
        // What the machine writes is forgotten.
        .arg(format!("file={},format=raw,if=virtio,snapshot=on", disk.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    println!("+ {command:?}");
    command.spawn().context("run QEMU")
}

/// Wakes the machine each time that it has suspended itself: it does not wake by its clock's alarm. Returns when it ends
/// (QEMU's QMP reference: `system_wakeup`, `SUSPEND`).
fn wake(control: &Path) -> Result<()> {
    let begin = Instant::now();
    let stream = loop {
        match UnixStream::connect(control) {
            Ok(stream) => break stream,
            Err(_) if begin.elapsed() < Duration::from_secs(30) => {
                thread::sleep(Duration::from_millis(100));
            }
            Err(error) => return Err(error).context("connect to QEMU"),
        }
    };
    let mut commands = stream
        .try_clone()
        .context("a second handle of QEMU's socket")?;
    let mut command = |name: &str| writeln!(commands, "{}", serde_json::json!({"execute": name}));
    command("qmp_capabilities")?;
    for line in BufReader::new(stream).lines() {
        // It ends with the machine.
        let Ok(line) = line else { break };
        let message: Value = serde_json::from_str(&line)?;
        if message["event"] == "SUSPEND" {
            thread::sleep(SUSPENDED);
            command("system_wakeup")?;
        }
    }
    Ok(())
}

/// Prints and keeps the job's output, with the time since the start, and returns its exit code.
fn show(output: ChildStdout, mut log: File, kernel: &str, start: Instant) -> Option<String> {
    let mut end = None;
    for line in BufReader::new(output).split(b'\n') {
        let Ok(line) = line else { break };
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end_matches('\r');
        if let Some(code) = line.strip_prefix(END) {
            end = Some(code.to_owned());
        }
        let line = format!("[{kernel} {:4.0} s] {line}", start.elapsed().as_secs_f64());
        println!("{line}");
        // The log is for later; the tests' result does not depend on it.
        let _ = writeln!(log, "{line}");
    }
    end
}
