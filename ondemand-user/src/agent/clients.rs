//! Who keeps a service up: its open connections, for `ondemand status NAME`.

use std::time::Duration;

use jiff::Timestamp;
use ondemand_ebpf::{LEG_BACK, LEG_FRONT, LEG_IGNORED, LEG_STEERED};

use super::Agent;
use crate::{
    bus::{
        Error, Reply, names,
        report::{Clients, OpenConnection},
    },
    host::clock,
    kernel::maps::clients::Connection,
};

/// How many are listed: those that were used last.
const MOST: usize = 100;
/// The shortest interval between two lists, and the maximum share of the time for them.
const EVERY: Duration = Duration::from_millis(100);
const SHARE: u32 = 20;

impl Agent {
    /// Answers with the open connections of a service.
    pub(super) fn clients(&mut self, name: &str, answer: Reply<Box<Clients>>) {
        // The caller may be gone.
        let _ = answer.send(self.clients_of(name).map(Box::new));
    }

    fn clients_of(&mut self, name: &str) -> Result<Clients, Error> {
        let (slot, is_proxied) = {
            let watched = self.named(name)?;
            (watched.slot, watched.uncounted.open > 0)
        };
        let begin = clock::now();
        if begin < self.next_clients {
            let text = "the open connections were listed just now; ask again in a moment";
            return Err(Error::new(names::LIMITS_EXCEEDED, text));
        }
        let (mut found, mut count) = (Vec::new(), 0_u64);
        // A client of the proxy has two connections; of the proxy's own only the client's is told.
        let sample = self.sampler.sample(slot).ok();
        let are_proxys = is_proxied
            || sample.is_some_and(|sample| sample.front.open().is_some_and(|open| open > 0));
        let walked = self.sampler.each_client(slot, |connection| {
            if connection.leg == LEG_BACK && are_proxys {
                return;
            }
            count += 1;
            found.push(connection);
            if found.len() >= 2 * MOST {
                keep_the_last(&mut found);
            }
        });
        let end = clock::now();
        let took = end.since(begin).unwrap_or_default();
        self.next_clients = end + EVERY.max(took * SHARE);
        walked.map_err(|error| Error::new(names::FAILED, format!("{error:#}")))?;
        keep_the_last(&mut found);
        let wall = Timestamp::now();
        let clients: Vec<_> = found
            .iter()
            .map(|connection| {
                let age = end.since(connection.since).unwrap_or_default();
                let since = wall.checked_sub(age).ok();
                OpenConnection {
                    address: connection.peer.to_string(),
                    way: way(connection.leg).into(),
                    since: since.map(|since| since.to_string()),
                    open_seconds: age.as_secs_f64(),
                    silent_seconds: connection.silent.map(|silent| silent.as_secs_f64()),
                }
            })
            .collect();
        Ok(Clients {
            clients_left_out: count - clients.len() as u64,
            clients,
        })
    }
}

fn keep_the_last(found: &mut Vec<Connection>) {
    found.sort_by_key(|connection| connection.silent);
    found.truncate(MOST);
}

fn way(leg: u32) -> &'static str {
    match leg {
        LEG_FRONT => "proxied",
        LEG_STEERED => "steered",
        LEG_IGNORED => "ignored",
        // Its own port, past the front socket.
        _ => "direct",
    }
}
