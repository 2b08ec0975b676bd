//! Whether the page for browsers can be made.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use anyhow::{Result, bail};
use nix::unistd::User;
use ondemand_core::config::{Config, Service, WaitingPage};

use super::finding::Finding;
use crate::host::page_template;

const WHAT: &str = "page";
/// The proxies' user (`units/sysusers.d/ondemand.conf`).
const USER: &str = "ondemand";
/// Directories that are hidden from proxies: `ProtectHome=` and `PrivateTmp=`.
const HIDDEN: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// Looks at the page of a service.
pub(super) fn look(service: &Service) -> Option<Finding> {
    let WaitingPage::File(path) = service.waiting_page.as_ref()? else {
        return Some(Finding::ok(
            WHAT,
            "browsers that wait for more than a second see a page",
        ));
    };
    let path = path.as_path();
    Some(match usable(path) {
        Ok(()) => Finding::ok(
            WHAT,
            format!(
                "browsers that wait for more than a second see {}",
                path.display()
            ),
        ),
        Err(error) => Finding::error(
            WHAT,
            format!("{error:#}; browsers see ondemand's own page instead"),
            format!("correct {}, or write waiting_page = true", path.display()),
        ),
    })
}

/// What is wrong with the templates of a configuration, one sentence each.
pub fn problems(config: &Config) -> Vec<String> {
    let services = config.services.values();
    let templates = services.filter_map(|service| match service.waiting_page.as_ref()? {
        WaitingPage::File(path) => Some((service, path)),
        WaitingPage::Builtin => None,
    });
    templates
        .filter_map(|(service, path)| {
            let error = usable(path).err()?;
            Some(format!("service.{}: waiting_page: {error:#}", service.name))
        })
        .collect()
}

fn usable(path: &Path) -> Result<()> {
    if let Some(hidden) = HIDDEN.iter().find(|hidden| path.starts_with(hidden)) {
        bail!(
            "{}: {hidden} is hidden from the proxy; put it into /etc/ondemand",
            path.display()
        );
    }
    page_template::read(path)?;
    let Ok(Some(user)) = User::from_name(USER) else {
        return Ok(());
    };
    let may = |file: &Metadata, bit: u32| {
        let mode = file.permissions().mode();
        let shift = match (
            file.uid() == user.uid.as_raw(),
            file.gid() == user.gid.as_raw(),
        ) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        mode >> shift & bit != 0
    };
    for place in path.ancestors() {
        let bit = if place == path { 0o4 } else { 0o1 };
        if fs::metadata(place).is_ok_and(|file| !may(&file, bit)) {
            bail!(
                "{}: its proxy's user {USER} cannot read it, because of the mode of {}",
                path.display(),
                place.display()
            );
        }
    }
    Ok(())
}
