//! Whether a process accepts the connections of the application's listener. The published port of a
//! container may have a listener that nobody accepts at, because the firewall leads the clients elsewhere:
//! nobody is steered there.

use std::time::Duration;

use ondemand_core::{
    config::WaitingPage,
    lifecycle::{View, has_accepted},
    waiting::LONGEST_TEMPLATE,
};

use super::{
    Agent,
    watched::{Complaint, Watched},
};

/// How long after an answer to a client the kernel may take to report that a connection was accepted: the
/// acknowledgement of the proxy's own connection may be delayed.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a page for browsers has at most, with its head and its end. Bytes.
const BUILTIN_PAGE: u64 = 8 * 1024;
/// The same of an operator's template, in which there may be names in many places.
const LONGEST_PAGE: u64 = 8 * LONGEST_TEMPLATE as u64;

impl Agent {
    /// Requests the kernel's report for this run, and already for the next one while it is down.
    pub(super) fn await_accept(&mut self, name: &str, view: &View) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let is_down = view.units.backend.state.is_down();
        let run = Some((view.units.backend.inactive_exit, is_down));
        if !watched.lifecycle.has_gate() || watched.awaits_accept == run {
            return;
        }
        if (is_down || !has_accepted(view))
            && let Err(error) = self.sampler.arm_accepted(watched.slot)
        {
            log::warn!("{name}: {error:#}");
            return;
        }
        watched.awaits_accept = run;
        watched.answered_elsewhere = None;
        watched.front_before = view.sample.map(|sample| sample.front);
    }

    /// Logs once that a program which binds ports for containers listens.
    pub(super) fn find_forwarder(&mut self, name: &str) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        if !watched.forwarder {
            watched.complaints.end(|of| *of == Complaint::Forwarder);
        } else if watched.lifecycle.has_gate()
            && watched.complaints.is_new(Complaint::Forwarder, "")
        {
            log::warn!(
                "{name}: {} is the port of a container, bound by a program that forwards it: the proxy \
                 carries all clients (steer = false makes that explicit)",
                watched.service.backend
            );
        }
    }

    /// Logs once that clients are answered, and nobody accepts connections at the listener.
    pub(super) fn find_deaf_listener(&mut self, name: &str, view: &View) {
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        if !watched.lifecycle.has_gate() || has_accepted(view) {
            watched.answered_elsewhere = None;
            watched.complaints.end(|of| *of == Complaint::NobodyAccepts);
            return;
        }
        let is_answered = watched.sent_more_than_pages(view);
        if watched.answered_elsewhere.is_none() && view.units.held() && is_answered {
            watched.answered_elsewhere = Some(view.now);
            watched.look_at = Some(view.now + PATIENCE);
        }
        if watched.answers_come_from_elsewhere(view)
            && watched.complaints.is_new(Complaint::NobodyAccepts, "")
        {
            log::warn!(
                "{name}: clients are answered, but nobody accepts connections at {}: it is probably the \
                 port of a container, which the firewall leads elsewhere. The proxy carries all clients \
                 (steer = false makes that explicit)",
                watched.service.backend
            );
            if watched.service.own_address {
                // Others may reach the container the same way, unseen.
                watched.forwarder = true;
                self.find_problem(name);
            }
        }
    }
}

impl Watched {
    /// Whether clients of the proxy were sent anything in this run, but the pages that it makes itself.
    fn sent_more_than_pages(&self, view: &View) -> bool {
        let Some((now, before)) = view
            .sample
            .map(|sample| sample.front)
            .zip(self.front_before)
        else {
            return false;
        };
        let page = match &self.service.waiting_page {
            None => 0,
            Some(WaitingPage::Builtin) => BUILTIN_PAGE,
            Some(WaitingPage::File(_)) => LONGEST_PAGE,
        };
        // The bytes of a connection are counted when it closes, or earlier.
        let connections = now.accepted.saturating_sub(before.closed);
        now.sent_bytes > before.sent_bytes + page * connections
    }

    fn answers_come_from_elsewhere(&self, view: &View) -> bool {
        let age = self.answered_elsewhere.and_then(|at| view.now.since(at));
        age.is_some_and(|age| age >= PATIENCE) && !has_accepted(view)
    }

    /// Why clients are proxied while the service is up, for `status`.
    pub(super) fn why_proxied(&self, view: &View) -> Option<&'static str> {
        if !self.lifecycle.has_gate() || !view.units.held() {
            return None;
        }
        if self.forwarder {
            return Some("all clients are proxied: a container's port");
        }
        if !view.ready {
            return Some("clients are proxied until it is ready");
        }
        if has_accepted(view) {
            return None;
        }
        Some(match self.answers_come_from_elsewhere(view) {
            true => "all clients are proxied: nobody accepts connections at its listener",
            false => "clients are proxied until one is answered",
        })
    }
}
