//! The links by which a unit is enabled: `multi-user.target.wants/wiki.service` and the like.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

/// Where a person's own links are (`systemctl enable`), and those until the next boot.
const OURS: [&str; 2] = ["/etc/systemd/system", "/run/systemd/system"];
/// Where packages' links, and those of generators, are.
const OTHERS: [&str; 6] = [
    "/run/systemd/generator.early",
    "/run/systemd/generator",
    "/run/systemd/generator.late",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
/// The directories of dependencies (systemd.unit(5)).
const KINDS: [&str; 3] = [".wants", ".requires", ".upholds"];

/// A link, and where it points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its path.
    pub path: PathBuf,
    /// Its target, as it is written in it.
    pub target: PathBuf,
}

impl Link {
    /// The unit that starts the other one because of it.
    pub fn of(&self) -> String {
        owner(&self.path).unwrap_or_default()
    }

    /// Removes it. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// It cannot be removed.
    pub fn remove(&self) -> Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("remove {}", self.path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Makes it again. One that is there is no error.
    ///
    /// # Errors
    ///
    /// It cannot be made, or something else is there.
    pub fn restore(&self) -> Result<()> {
        let place = || format!("make the link {} again", self.path.display());
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory).with_context(place)?;
        }
        match symlink(&self.target, &self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(error).with_context(place)
            }
            Err(_) if fs::read_link(&self.path).ok().as_ref() != Some(&self.target) => {
                bail!(
                    "{} is there, and is another one; remove it, or keep it",
                    self.path.display()
                )
            }
            _ => Ok(()),
        }
    }
}

/// The links of a unit with these names that may be taken away.
pub fn ours(names: &[String]) -> Vec<Link> {
    below(OURS.map(Path::new), names)
}

/// The others: of packages, and of generators.
pub fn others(names: &[String]) -> Vec<PathBuf> {
    let links = below(OTHERS.map(Path::new), names);
    links.into_iter().map(|link| link.path).collect()
}

/// `multi-user.target` for `.../multi-user.target.wants/wiki.service`.
pub fn owner(link: &Path) -> Option<String> {
    let directory = link.parent()?.file_name()?.to_str()?;
    let owner = KINDS.iter().find_map(|kind| directory.strip_suffix(kind))?;
    Some(owner.to_owned())
}

fn below<const N: usize>(roots: [&Path; N], names: &[String]) -> Vec<Link> {
    let mut found = Vec::new();
    for root in roots {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let directory = entry.path();
            let name = entry.file_name().into_string().unwrap_or_default();
            if !KINDS.iter().any(|kind| name.ends_with(kind)) {
                continue;
            }
            for name in names {
                let path = directory.join(name);
                // To /dev/null: it takes the dependency away.
                let target = fs::read_link(&path).ok();
                if let Some(target) = target.filter(|target| target != Path::new("/dev/null")) {
                    found.push(Link { path, target });
                }
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_taken_away_and_made_again() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str, target: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(target, &path).unwrap();
        };
        make("multi-user.target.wants/wiki.service", "../wiki.service");
        make(
            "a.service.requires/alias.service",
            "/lib/systemd/system/wiki.service",
        );
        make("b.target.wants/other.service", "../other.service");
        make("c.target.wants/wiki.service", "/dev/null");
        make("wiki.service.d/wiki.service", "x");
        let names = ["wiki.service".to_owned(), "alias.service".to_owned()];
        let found = || below([root.path()], &names);
        let links = found();
        let owners: Vec<_> = links.iter().map(Link::of).collect();
        assert_eq!(owners, ["a.service", "multi-user.target"]);
        for _ in 0..2 {
            links.iter().for_each(|link| link.remove().unwrap());
            assert_eq!(found(), []);
        }
        fs::remove_dir(root.path().join("a.service.requires")).unwrap();
        for _ in 0..2 {
            links.iter().for_each(|link| link.restore().unwrap());
            assert_eq!(found(), links);
        }
        links[1].remove().unwrap();
        make("multi-user.target.wants/wiki.service", "elsewhere");
        assert!(links[1].restore().is_err());
    }
}
