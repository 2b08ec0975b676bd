//! `/org/ondemand1/service/NAME`: one service. The largest number means unknown, or never.

use std::{
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use zbus::{Connection, interface, message::Header};

use super::{
    Error, Request,
    gate::{Gate, ask},
    limits::Limit,
    listeners::Listeners,
    names::NO_NUMBER,
    properties::{self, micros},
    report,
};

/// A call: who has sent it, and its number.
type Call = (String, NonZeroU32);

/// The object.
pub(super) struct Service {
    name: String,
    gate: Arc<Gate>,
    /// Pending reads of properties, of all services.
    reads: Arc<Limit>,
    listeners: Listeners,
    /// What the last call got: `GetAll` reads one property after the other.
    last: Mutex<Option<(Call, Arc<report::Service>)>>,
}

impl Service {
    /// The object of the service of this name. It queries the agent's loop.
    pub(super) fn new(
        name: String,
        gate: Arc<Gate>,
        reads: Arc<Limit>,
        listeners: Listeners,
    ) -> Self {
        Self {
            name,
            gate,
            reads,
            listeners,
            last: Mutex::default(),
        }
    }

    /// `call`: the one that reads the property.
    async fn describe(
        &self,
        connection: &Connection,
        call: Option<Header<'_>>,
    ) -> Result<Arc<report::Service>, Error> {
        let key = call.as_ref().and_then(|call| {
            let sender = call.sender()?.as_str().to_owned();
            Some((sender, call.primary().serial_num()))
        });
        if let Some((call, service)) = &*self.last()
            && key.as_ref() == Some(call)
        {
            return Ok(Arc::clone(service));
        }
        let _pending = call
            .as_ref()
            .map(|call| self.reads.admit(call))
            .transpose()?;
        // Who reads everything keeps it, and wants to hear of changes.
        if let Some(call) = &call
            && call.member().is_some_and(|member| *member == "GetAll")
        {
            self.listeners.join(connection, call).await;
        }
        let service = ask(&self.gate.requests, |answer| {
            Request::Describe(self.name.clone(), answer)
        })
        .await?;
        let service: Arc<report::Service> = Arc::from(service);
        if let Some(key) = key {
            *self.last() = Some((key, Arc::clone(&service)));
        }
        Ok(service)
    }

    fn last(&self) -> MutexGuard<'_, Option<(Call, Arc<report::Service>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An open connection: the client's address, its way, since when in microseconds since 1970, and for how many no byte has
/// gone either way.
type Client = (String, String, u64, u64);

#[interface(name = "org.ondemand1.Service")]
impl Service {
    /// Keeps it up for a number of microseconds, however idle it is; 0: until it is released. Does not start it. Returns
    /// the end in microseconds since 1970; the largest number: until it is released.
    #[zbus(out_args("until_usec"))]
    async fn hold(
        &self,
        for_usec: u64,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<u64, Error> {
        let span = (for_usec > 0).then(|| Duration::from_micros(for_usec));
        let request = |service, answer| Request::Hold(service, span, answer);
        self.gate
            .act(connection, &call, "hold", &self.name, request)
            .await
    }

    /// Keeps it up until the caller's connection to the bus ends. The reason is shown in the status.
    async fn inhibit(
        &self,
        why: &str,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(), Error> {
        self.gate.inhibit(&self.name, why, connection, &call).await
    }

    /// Ends a hold. Returns whether there was one.
    #[zbus(out_args("was_held"))]
    async fn release(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.gate
            .act(connection, &call, "release", &self.name, Request::Release)
            .await
    }

    /// Starts it and returns when it is up. Returns whether it was down.
    #[zbus(out_args("was_down"))]
    async fn start(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.gate
            .act(connection, &call, "start", &self.name, Request::Start)
            .await
    }

    /// Stops it if it is unused, however short that time, and returns when it is down. Returns whether it was up.
    /// org.ondemand1.Error.Kept: it stays up, and why.
    #[zbus(out_args("was_up"))]
    async fn stop(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<bool, Error> {
        self.gate
            .act(connection, &call, "stop", &self.name, Request::Stop)
            .await
    }

    /// Its open connections, those that were used last first: the client's address; `steered`, `proxied`, `ignored` or
    /// `direct`; since when, in microseconds since 1970; for how many microseconds no byte has gone either way. And how
    /// many more there are.
    #[zbus(out_args("clients", "left_out"))]
    async fn clients(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Header<'_>,
    ) -> Result<(Vec<Client>, u64), Error> {
        let (_, _pending) = self.gate.admit(connection, &call).await?;
        let request = |answer| Request::Clients(self.name.clone(), answer);
        let found = ask(&self.gate.requests, request).await?;
        let clients = found.clients.into_iter().map(|client| {
            let since = client.since.and_then(|text| text.parse().ok());
            let since = since.and_then(|at: jiff::Timestamp| at.as_microsecond().try_into().ok());
            let silent = micros(client.silent_seconds);
            (
                client.address,
                client.way,
                since.unwrap_or(NO_NUMBER),
                silent,
            )
        });
        Ok((clients.collect(), found.clients_left_out))
    }

    /// Its name in the configuration.
    #[zbus(property(emits_changed_signal = "const"))]
    fn name(&self) -> &str {
        &self.name
    }

    /// The application's unit.
    #[zbus(property)]
    async fn unit(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<String, Error> {
        Ok(self.describe(connection, call).await?.unit.clone())
    }

    /// Where its clients connect.
    #[zbus(property)]
    async fn listen(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<Vec<String>, Error> {
        let service = self.describe(connection, call).await?;
        Ok(service.listen.clone())
    }

    /// What does not work; empty: nothing is known.
    #[zbus(property)]
    async fn problem(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<String, Error> {
        let service = self.describe(connection, call).await?;
        Ok(service.problem.clone().unwrap_or_default())
    }

    /// Whether it is a time of use (`keep_up`): then it is not stopped.
    #[zbus(property)]
    async fn kept_up(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<bool, Error> {
        let service = self.describe(connection, call).await?;
        Ok(service.kept_up)
    }

    /// Since when it has been unused, in microseconds since 1970; the largest number: it is used, or down.
    #[zbus(property, name = "IdleSinceUSec")]
    async fn idle_since(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        let service = self.describe(connection, call).await?;
        Ok(properties::idle_since(&service))
    }

    /// Why its idle timeout is what it is: `configured`, or one sentence about what was learned.
    #[zbus(property)]
    async fn idle_timeout_reason(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<String, Error> {
        let service = self.describe(connection, call).await?;
        Ok(properties::reason(&service.learned))
    }

    /// `inactive`, `activating`, `active`, `deactivating`, `failed` or `unknown`.
    #[zbus(property)]
    async fn state(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<String, Error> {
        Ok(self.describe(connection, call).await?.state.clone())
    }

    /// `native`: clients meet the application at its own address; `steered`: new connections are steered to it;
    /// otherwise `proxied`.
    #[zbus(property)]
    async fn route(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<String, Error> {
        Ok(self.describe(connection, call).await?.route.clone())
    }

    /// Why it is up, or what happens next: one sentence.
    #[zbus(property(emits_changed_signal = "false"))]
    async fn detail(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<String, Error> {
        Ok(self.describe(connection, call).await?.detail.clone())
    }

    /// End of its hold, in microseconds since 1970; 0: it is not held; the largest number: until it is
    /// released.
    #[zbus(property)]
    async fn held_until(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(self.describe(connection, call).await?.held_until_micros())
    }

    /// Connections open now.
    #[zbus(property)]
    async fn open_connections(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        let open = self.describe(connection, call).await?.open_connections;
        Ok(open.unwrap_or(NO_NUMBER))
    }

    /// Connections accepted in total.
    #[zbus(property)]
    async fn accepted_connections(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(self.describe(connection, call).await?.accepted_connections)
    }

    /// Payload bytes from clients.
    #[zbus(property)]
    async fn received_bytes(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(self.describe(connection, call).await?.received_bytes)
    }

    /// Payload bytes to clients.
    #[zbus(property)]
    async fn sent_bytes(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(self.describe(connection, call).await?.sent_bytes)
    }

    /// How long it has been unused; the largest number: it is used, or down.
    #[zbus(property(emits_changed_signal = "false"), name = "IdleUSec")]
    async fn idle(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(micros(self.describe(connection, call).await?.idle_seconds))
    }

    /// Its idle timeout; the largest number: never stopped.
    #[zbus(property, name = "IdleTimeoutUSec")]
    async fn idle_timeout(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(micros(
            self.describe(connection, call).await?.idle_timeout_seconds,
        ))
    }

    /// How long its last start took.
    #[zbus(property, name = "LastStartUSec")]
    async fn last_start(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(micros(
            self.describe(connection, call)
                .await?
                .last_start_duration_seconds,
        ))
    }

    /// How long its start usually takes; the largest number: none was seen.
    #[zbus(property, name = "UsualStartUSec")]
    async fn usual_start(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(micros(
            self.describe(connection, call).await?.usual_start_seconds,
        ))
    }

    /// Starts since the agent's own.
    #[zbus(property)]
    async fn starts(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(self.describe(connection, call).await?.starts)
    }

    /// Ends of its unit since the agent's start.
    #[zbus(property)]
    async fn stops(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(self.describe(connection, call).await?.stops)
    }

    /// Stops that were not completed, since the agent's start.
    #[zbus(property)]
    async fn vetoes(
        &self,
        #[zbus(connection)] connection: &Connection,
        #[zbus(header)] call: Option<Header<'_>>,
    ) -> Result<u64, Error> {
        Ok(self.describe(connection, call).await?.vetoes)
    }
}
