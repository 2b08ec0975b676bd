//! Handles events of the kernel's programs: a new listener, the first client, the last close.

use ondemand_core::{lifecycle::Input, measure::sample::KernelEvent};
use tokio::sync::oneshot;

use super::Agent;
use crate::{
    host::clock,
    kernel::{maps::events::News, sockets::listening::Application},
};

/// Maximum number of proxies of one service that wait for its listener.
const MOST_WAITING: usize = 64;

impl Agent {
    pub(super) fn kernel_news(&mut self, news: News) {
        match news {
            News::Event(event) => self.kernel_event(event),
            News::Caught(packets) => self.take_caught(packets),
            News::Datagrams(datagrams) => self.take_datagrams(datagrams),
        }
    }

    fn kernel_event(&mut self, event: KernelEvent) {
        let (KernelEvent::Listening(slot, _)
        | KernelEvent::Stranger(slot, _)
        | KernelEvent::Forwarder(slot, _)
        | KernelEvent::Bound(slot, _)
        | KernelEvent::Accepted(slot)
        | KernelEvent::Opened(slot)
        | KernelEvent::Closed(slot)
        | KernelEvent::Answered(slot, _)) = event;
        // The service is no longer configured.
        let Some(name) = self.slots.get(&slot).cloned() else {
            return;
        };
        if let KernelEvent::Opened(_) = event {
            self.thaw_if_frozen(&name);
        }
        match (event, self.services.get_mut(&name)) {
            (KernelEvent::Listening(_, at) | KernelEvent::Forwarder(_, at), Some(watched)) => {
                // First of all: a client waits for it.
                for waiting in watched.waiting.drain(..) {
                    let _ = waiting.send(()); // The caller may be gone.
                }
                match watched.service.ready {
                    // It is asked at once whether that is enough.
                    Some(_) => watched.probing.hurry(clock::now()),
                    None => watched.lifecycle.runs().listens(at),
                }
                watched.stranger = None;
                watched.forwarder = matches!(event, KernelEvent::Forwarder(..));
                self.find_refusal(&name);
                self.find_forwarder(&name);
                self.find_problem(&name);
            }
            (KernelEvent::Stranger(_, at), Some(watched)) => {
                // They judge it themselves.
                for waiting in watched.waiting.drain(..) {
                    let _ = waiting.send(()); // The caller may be gone.
                }
                self.ask_owner(&name, Some(at));
            }
            (KernelEvent::Bound(_, at), Some(_)) => self.is_bound(&name, at),
            (KernelEvent::Closed(_), Some(watched)) => watched.armed = false,
            (KernelEvent::Answered(_, at), Some(watched)) => watched.lifecycle.runs().answered(at),
            _ => {}
        }
        self.look(&name, Input::Changed);
    }

    /// A proxy waits for a backend's listener. An existing listener sends no event.
    pub(super) fn wait_listening(&mut self, name: &str, answer: oneshot::Sender<()>) {
        // Dropping the answer makes the caller poll.
        let Some(watched) = self.services.get_mut(name) else {
            return;
        };
        let there = Application::from(&watched.service).is_listening();
        if there.is_ok_and(|there| there) {
            // The caller may be gone.
            let _ = answer.send(());
            return;
        }
        watched.waiting.retain(|waiting| !waiting.is_closed());
        if watched.waiting.len() < MOST_WAITING {
            watched.waiting.push(answer);
        }
    }
}
