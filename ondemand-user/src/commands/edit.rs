//! `ondemand edit`: a copy of a file of the configuration in an editor, which replaces the file if it is correct.

use std::{
    env, fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::geteuid;
use ondemand_core::{config::DEFAULT_PATH, words::printable};
use tempfile::Builder;

use super::{abandon::file_of, apply, consent::refuse};
use crate::host::{atomic_file, config_file};

/// The editors that are tried where the environment names none.
const EDITORS: [&str; 3] = ["sensible-editor", "nano", "vi"];

/// Edits the file of a service, or the main one, and brings it into force.
///
/// # Errors
///
/// There is no such service, no editor, or the text stays wrong: the file is as it was, and the text is kept.
pub async fn run(path: &Path, name: Option<&str>) -> Result<()> {
    if !geteuid().is_root() {
        bail!("only root may change the configuration: `sudo ondemand edit`");
    }
    let file = match name {
        None => path.to_owned(),
        Some(name) => file(path, name)?,
    };
    // A link is not replaced, but what it leads to.
    let real = fs::canonicalize(&file).unwrap_or_else(|_| file.clone());
    let before = match config_file::copied(&real) {
        Ok(text) => text,
        // A first one.
        Err(_) if !real.exists() => String::new(),
        Err(error) => return Err(error.into()),
    };
    let draft = Builder::new()
        .prefix("ondemand-edit-")
        .suffix(".toml")
        .tempfile()
        .context("make a copy to edit")?;
    fs::write(draft.path(), &before).context("write the copy to edit")?;
    let text = loop {
        open(draft.path())?;
        let text = fs::read_to_string(draft.path()).context("read the edited copy")?;
        if text == before {
            println!("{}: unchanged", printable(&file.display().to_string()));
            return Ok(());
        }
        let whole = config_file::text_with(path, Some((&file, &text)));
        match whole.and_then(|whole| config_file::parse_here(path, &whole)) {
            Ok(_) => break text,
            Err(error) => {
                eprintln!("ondemand: {}", printable(&error.to_string()));
                if !again()? {
                    let (_, kept) = draft.keep().context("keep the edited copy")?;
                    let kept = kept.display();
                    return refuse(format!(
                        "{} is as it was; your text is in {kept}",
                        file.display()
                    ));
                }
            }
        }
    };
    let now = config_file::copied(&real).unwrap_or_default();
    if now != before {
        let (_, kept) = draft.keep().context("keep the edited copy")?;
        bail!(
            "{} was changed by another meanwhile, and is not overwritten; your text is in {}",
            file.display(),
            kept.display()
        );
    }
    if let Err(error) = replace(&real, &text) {
        let (_, kept) = draft.keep().context("keep the edited copy")?;
        return Err(error.context(format!("your text is in {}", kept.display())));
    }
    println!("wrote {}", printable(&file.display().to_string()));
    match path == Path::new(DEFAULT_PATH) {
        true => apply::run(path, false).await,
        false => Ok(()),
    }
}

/// The file of a service.
fn file(path: &Path, name: &str) -> Result<PathBuf> {
    let name = name.strip_suffix(".service").unwrap_or(name);
    let found = file_of(path, name)?;
    let text = config_file::copied(&found)?;
    if !ondemand_core::config::service_names(&text)
        .iter()
        .any(|it| it == name)
    {
        // Says which there are; of a wrong configuration, what is wrong.
        config_file::load(path)?.service(name)?;
    }
    Ok(found)
}

/// Replaces a file, and keeps its mode and owner.
fn replace(file: &Path, text: &str) -> Result<()> {
    let data = fs::metadata(file).ok();
    let mode = data.as_ref().map_or(0o644, |data| data.mode() & 0o777);
    atomic_file::replace(file, text.as_bytes(), mode)
        .with_context(|| format!("write {} (is its file system writable?)", file.display()))?;
    if let Some(data) = data {
        std::os::unix::fs::chown(file, Some(data.uid()), Some(data.gid()))
            .with_context(|| format!("give {} its owner", file.display()))?;
    }
    Ok(())
}

/// Opens the person's editor, which may be a command with arguments, as other programs do.
fn open(file: &Path) -> Result<()> {
    let named = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| env::var(name).ok());
    let named = named.filter(|editor| !editor.trim().is_empty());
    let editor = match named {
        Some(editor) => editor,
        None => EDITORS
            .iter()
            .find(|editor| is_installed(editor))
            .map(|editor| (*editor).to_owned())
            .context("there is no editor; name one: VISUAL=/usr/bin/nano ondemand edit")?,
    };
    let status = Command::new("/bin/sh")
        .args(["-c", &format!("{editor} \"$1\""), "sh"])
        .arg(file)
        .status()
        .with_context(|| format!("run the editor {editor}"))?;
    if !status.success() {
        bail!("the editor {editor} failed ({status}); nothing was changed");
    }
    Ok(())
}

fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// Asks whether to edit again; without a terminal no.
fn again() -> Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    eprint!("Edit it again? [Y/n] ");
    io::stderr().flush().context("ask")?;
    let mut answer = String::new();
    let read = io::stdin()
        .read_line(&mut answer)
        .context("read the answer")?;
    Ok(read > 0 && !matches!(answer.trim(), "n" | "N" | "no" | "No"))
}
