//! The end of a job of a service's lease.

use ondemand_core::lifecycle::{Input, JobEnd};

use super::{
    Agent,
    events::{Event, Message},
};
use crate::{host::ablation, systemd::Reading};

impl Agent {
    /// A job has ended, and these are its service's units after it. The signals of what it has changed have come
    /// before, as a rule, with the time of each change: then the states only confirm that nothing is missing. Units
    /// that are in another state are read.
    pub(super) fn job_ended(
        &mut self,
        service: String,
        ticket: u64,
        end: JobEnd,
        readings: Vec<(String, Reading)>,
    ) {
        while let Some(change) = self.systemd.change() {
            self.handle(Event::Systemd(Some(change)));
        }
        if !self.is_awaited(&service, ticket) {
            return;
        }
        let differing = self.systemd.differing(&readings);
        let (Some(systemd), false) = (self.systemd.caller(), differing.is_empty()) else {
            let whole = readings.into_iter().filter(|(_, it)| it.is_whole());
            self.systemd.take(whole);
            self.look(&service, Input::Job(end));
            ablation::reached(ablation::Moment::Settling);
            return;
        };
        let messages = self.messages.clone();
        tokio::spawn(async move {
            let readings = systemd.read(&differing).await;
            // The receiver is gone if the agent has exited.
            let _ = messages.send(Message::Job {
                service,
                ticket,
                end,
                readings,
            });
        });
    }
}
