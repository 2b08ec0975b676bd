//! Address rules, which systemd enforces at a unit's own sockets: a steered connection bypasses the
//! rules of its front socket, and is subject to those of the backend with the client's own address.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use anyhow::{Context as _, Result};

use super::{Systemd, calls::if_known};

/// Maximum depth of nested slices, except by mistake.
const SLICES: usize = 16;

/// A cache of the slices: many units are in the same one.
#[derive(Debug, Default)]
pub struct Slices(Mutex<HashMap<String, (bool, Option<String>)>>);

impl Slices {
    fn known(&self, unit: &str) -> Option<(bool, Option<String>)> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(unit).cloned()
    }

    fn remember(&self, unit: &str, read: &(bool, Option<String>)) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.insert(unit.to_owned(), read.clone());
    }
}

impl Systemd {
    /// Returns the unit, or a slice that contains it, that filters its traffic by `IPAddressDeny=`.
    /// `IPAddressAllow=` alone filters nothing: an address in no list is allowed
    /// (systemd.resource-control(5)).
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn address_rules(&self, unit: &str, slices: &Slices) -> Result<Option<String>> {
        let mut unit = unit.to_owned();
        for _ in 0..SLICES {
            let (filters, slice) = match slices.known(&unit) {
                Some(known) => known,
                None => {
                    let read = self.rules_of(&unit).await?;
                    if unit.ends_with(".slice") {
                        slices.remember(&unit, &read);
                    }
                    read
                }
            };
            if filters {
                return Ok(Some(unit));
            }
            match slice {
                Some(slice) => unit = slice,
                None => break,
            }
        }
        Ok(None)
    }

    /// Whether a unit filters, and its slice.
    async fn rules_of(&self, unit: &str) -> Result<(bool, Option<String>)> {
        let _turn = Self::turn(&self.reads).await;
        let read = async {
            let cgroup = self.cgroup(unit).await?;
            let deny = if_known(cgroup.ip_address_deny().await)?;
            let slice = if_known(cgroup.slice().await)?;
            zbus::Result::Ok((deny, slice))
        };
        let read = read.await;
        let (deny, slice) = read
            .with_context(|| format!("query IPAddressDeny= and Slice= of {unit} from systemd"))?;
        Ok((
            deny.is_some_and(|deny| !deny.is_empty()),
            slice.filter(|slice| !slice.is_empty()),
        ))
    }
}
