//! Address rules, which systemd enforces at a unit's own sockets: a connection that is steered past a
//! front socket does not meet its rules, and meets those of the backend with the client's own address.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use zbus::{OwnedVariant, fdo};

use super::{NAME, PROPERTIES, SERVICE, Systemd, unit_path};

const SOCKET: &str = "org.freedesktop.systemd1.Socket";
const SLICE: &str = "org.freedesktop.systemd1.Slice";
/// Slices are nested no deeper than this in anything but a mistake.
const SLICES: usize = 16;

/// An address as family, bytes, and length of its prefix.
type Prefix = (i32, Vec<u8>, u32);

/// What was read of slices: many units are in the same.
#[derive(Debug, Default)]
pub struct Slices(HashMap<String, (bool, Option<String>)>);

impl Systemd {
    /// The unit, or the slice it is in, that filters its traffic by `IPAddressDeny=`.
    /// `IPAddressAllow=` alone filters nothing: what no list names is let through
    /// (systemd.resource-control(5)).
    ///
    /// # Errors
    ///
    /// PID 1 does not answer.
    pub async fn address_rules(&self, unit: &str, slices: &mut Slices) -> Result<Option<String>> {
        let mut unit = unit.to_owned();
        for _ in 0..SLICES {
            let (filters, slice) = match slices.0.get(&unit) {
                Some(known) => known.clone(),
                None => {
                    let read = self.rules_of(&unit).await?;
                    if unit.ends_with(".slice") {
                        slices.0.insert(unit.clone(), read.clone());
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

    /// Whether a unit filters, and the slice it is in.
    async fn rules_of(&self, unit: &str) -> Result<(bool, Option<String>)> {
        let deny = self.value(unit, "IPAddressDeny").await?;
        let deny = deny.map(Vec::<Prefix>::try_from).transpose();
        let deny = deny.with_context(|| format!("IPAddressDeny= of {unit}"))?;
        let slice = self.value(unit, "Slice").await?;
        let slice = slice.map(String::try_from).transpose();
        let slice = slice.with_context(|| format!("Slice= of {unit}"))?;
        Ok((
            deny.is_some_and(|deny| !deny.is_empty()),
            slice.filter(|slice| !slice.is_empty()),
        ))
    }

    /// One property of a unit with a cgroup. `None`: this version of systemd has none of the name.
    async fn value(&self, unit: &str, property: &str) -> Result<Option<OwnedVariant>> {
        let interface = match unit.rsplit_once('.') {
            Some((_, "socket")) => SOCKET,
            Some((_, "slice")) => SLICE,
            _ => SERVICE,
        };
        let path = unit_path::of(unit);
        let reply = self
            .connection
            .call_method(
                Some(NAME),
                path.as_str(),
                Some(PROPERTIES),
                "Get",
                &(interface, property),
            )
            .await;
        match reply {
            Ok(reply) => Ok(Some(reply.body().deserialize()?)),
            Err(zbus::Error::FDO(error)) if matches!(*error, fdo::Error::UnknownProperty(_)) => {
                Ok(None)
            }
            Err(error) => {
                Err(error).with_context(|| format!("ask systemd for {property}= of {unit}"))
            }
        }
    }
}
