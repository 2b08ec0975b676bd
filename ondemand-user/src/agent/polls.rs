//! Polls for which the kernel sends no event: Unix sockets, and connections older than the counting.

use std::path::Path;

use anyhow::Result;
use ondemand_core::{config::Endpoint, lifecycle::Input};

use super::{Agent, watched::Watched};
use crate::{
    host::clock,
    kernel::sockets::unix::{self, Connections},
};

impl Agent {
    /// Polls everything that the kernel sends no event for.
    pub(super) fn poll(&mut self) {
        let begin = clock::now();
        self.next_poll = None;
        self.look_at_unix_sockets(None);
        let mut names = Vec::new();
        let mut older = false;
        for watched in self.services.values() {
            let sample = self.sampler.sample(watched.slot).ok();
            let has_older = sample.is_some_and(|sample| sample.older > 0);
            let is_polled = self
                .units_of(watched)
                .and_then(|units| watched.poll_interval(&units, sample.as_ref()))
                .is_some();
            older |= is_polled && has_older;
            // A client that has come meanwhile ends the polls of older connections: the close of its connection is
            // requested instead, at a look.
            if is_polled || has_older {
                names.push(watched.service.name.clone());
            }
        }
        if older {
            let taken = self.sampler.snapshot().map(drop);
            self.complain("connections older than the agent", &taken);
        }
        self.poll_cost = clock::now().since(begin).unwrap_or_default();
        for name in names {
            // Otherwise it is looked at when it would be idle.
            let has_open =
                |watched: &Watched| watched.service.has_datagrams() && watched.uncounted.open > 0;
            if self.services.get(&name).is_some_and(has_open) {
                self.finds_connected(&name);
            }
            self.look(&name, Input::Changed);
        }
    }

    /// Counts the connections of Unix sockets, of one service or of all that are up.
    pub(super) fn look_at_unix_sockets(&mut self, only: Option<&str>) {
        let wanted = |watched: &&Watched| {
            only.is_none_or(|only| only == watched.service.name)
                && watched.unix_paths().next().is_some()
                && self
                    .units_of(watched)
                    .is_some_and(|units| units.backend.state.is_up())
        };
        let wanted: Vec<&Watched> = self.services.values().filter(wanted).collect();
        if wanted.is_empty() {
            return;
        }
        let paths: Vec<&Path> = wanted
            .iter()
            .flat_map(|watched| watched.unix_paths())
            .collect();
        let counts = unix::connections(paths);
        let names: Vec<String> = wanted
            .iter()
            .map(|watched| watched.service.name.clone())
            .collect();
        self.complain("connections of Unix sockets", &counts);
        let now = clock::now();
        for name in names {
            let Some(watched) = self.services.get_mut(&name) else {
                continue;
            };
            let Ok(counts) = &counts else {
                watched.uncounted.unix_unknown(now);
                continue;
            };
            let open = |endpoint: &Endpoint| match endpoint {
                Endpoint::Unix(path) => counts.get(path).map_or(0, Connections::open),
                Endpoint::Tcp(_) | Endpoint::Udp(_) => 0,
            };
            // A client of the front and the proxy's connection for it are one client.
            let front: u64 = watched.service.listen.iter().map(open).sum();
            let back = open(&watched.service.backend);
            watched.uncounted.unix(front.max(back), now);
        }
    }

    /// A failed look keeps services up: it is logged, but not each time.
    pub(super) fn complain<T>(&mut self, what: &'static str, looked: &Result<T>) {
        if let Some(error) = self.complaints.follow(what, looked) {
            log::warn!("services with {what} are kept, because these cannot be read: {error:#}");
        }
    }
}
