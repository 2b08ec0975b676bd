//! Calls the running agent over D-Bus, and explains failures.

use std::{fmt, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use futures_util::StreamExt as _;
use zbus::{
    Connection, Message, MessageStream,
    connection::Builder,
    message::{Flags, Type},
};

use crate::{bus::names, install::check::agent, systemd::Systemd};

/// Maximum time of the agent for a reply.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long to wait before an agent is asked again that was asked too often.
const AGAIN: Duration = Duration::from_millis(50);

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The agent's name has no owner on the bus: why, and what to do.
    NoAgent(String),
    /// The agent exited before it replied.
    Ended,
    /// It did not reply in time.
    Slow,
    /// The bus's own policy forbids the call.
    Policy,
    /// The agent, or polkit, forbids it.
    Denied(String),
    /// The request is not possible, or a name or the configuration is wrong: exit status 2.
    Usage(String),
    /// The agent has answered too many of these calls just now.
    Busy(String),
    /// Any other error of the agent.
    Other(String),
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAgent(why) => write!(f, "no agent is running: {why}"),
            Self::Ended => f.write_str(
                "the agent exited before it replied; see `journalctl -u ondemand.service`",
            ),
            Self::Slow => write!(
                f,
                "the agent did not reply within {} s; see `systemctl status ondemand.service`",
                TIMEOUT.as_secs()
            ),
            Self::Policy => f.write_str(
                "the bus denied access to the agent: run this as root (`sudo ondemand ...`), or \
                 install org.ondemand1.conf",
            ),
            Self::Denied(why) => write!(f, "{why}; run this as root (`sudo ondemand ...`)"),
            Self::Usage(why) | Self::Busy(why) | Self::Other(why) => f.write_str(why),
        }
    }
}

/// A connection to the agent.
#[derive(Clone, Debug)]
pub struct Client {
    connection: Connection,
}

impl Client {
    /// Connects to the system bus.
    ///
    /// # Errors
    ///
    /// There is no system bus.
    pub async fn connect() -> Result<Self> {
        let connection = Builder::system()
            .method_timeout(TIMEOUT)
            .build()
            .await
            // Its text includes that of its cause.
            .map_err(|error| {
                anyhow!("connect to the system bus (is dbus.service running?): {error}")
            })?;
        Ok(Self { connection })
    }

    /// Returns the agent's status, a [`crate::bus::report::Report`] in JSON.
    ///
    /// # Errors
    ///
    /// An [`Error`].
    pub async fn status(&self) -> Result<String> {
        let call = self.call("Status", &(), Flags::empty());
        let answer = tokio::time::timeout(TIMEOUT, call).await;
        answer.map_err(|_| Error::Slow)?
    }

    /// Returns the open connections of a service, a [`crate::bus::report::Clients`] in JSON.
    ///
    /// # Errors
    ///
    /// An [`Error`].
    pub async fn clients(&self, service: &str) -> Result<String> {
        let body = (service,);
        let call = async {
            loop {
                let answer = self.call("Clients", &body, Flags::empty()).await;
                match &answer {
                    // It looks at all sockets, so not too often.
                    Err(error) if matches!(error.downcast_ref(), Some(Error::Busy(_))) => {
                        tokio::time::sleep(AGAIN).await;
                    }
                    _ => return answer,
                }
            }
        };
        let answer = tokio::time::timeout(TIMEOUT, call).await;
        answer.map_err(|_| Error::Slow)?
    }

    /// The connection, for its signals.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The agent's own name on the bus; `None`: there is no agent.
    ///
    /// # Errors
    ///
    /// The bus does not answer.
    pub async fn owner(&self) -> Result<Option<String>> {
        let call = self.connection.call_method(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            Some("org.freedesktop.DBus"),
            "GetNameOwner",
            &names::NAME,
        );
        match call.await {
            Ok(reply) => Ok(Some(
                reply
                    .body()
                    .deserialize()
                    .context("parse the bus's reply")?,
            )),
            Err(zbus::Error::MethodError(name, ..)) if name.ends_with("NameHasNoOwner") => Ok(None),
            Err(error) => Err(error).context("ask the bus for the agent"),
        }
    }

    /// The service that a person means by `asked`: its name, or its unit with `.service`.
    pub async fn resolve(&self, asked: &str) -> String {
        if !asked.ends_with(".service") {
            return asked.to_owned();
        }
        // Without an answer the call that follows fails, too, and says why.
        let report = self.status().await.ok();
        let report = report.and_then(|text| serde_json::from_str(&text).ok());
        super::status::name_among(&report.unwrap_or_default(), asked).to_owned()
    }

    /// Waits until another agent has the name on the bus.
    ///
    /// # Errors
    ///
    /// The bus has ended.
    pub async fn next_agent(&self) -> Result<()> {
        let rule = format!(
            "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{}'",
            names::NAME
        );
        let mut changes =
            MessageStream::for_match_rule(rule.as_str(), &self.connection, None).await?;
        loop {
            let change = changes
                .next()
                .await
                .context("the bus closed the connection")??;
            let (_, _, owner): (String, String, String) = change.body().deserialize()?;
            if !owner.is_empty() {
                return Ok(());
            }
        }
    }

    /// Makes the agent do something, however long it takes. `interactive`: polkit may ask the
    /// user for a password.
    ///
    /// # Errors
    ///
    /// An [`Error`].
    pub async fn act<B, T>(&self, method: &str, body: &B, interactive: bool) -> Result<T>
    where
        B: serde::Serialize + zbus::DynamicType,
        T: for<'d> zbus::wire::DynamicDeserialize<'d>,
    {
        let flags = if interactive {
            Flags::ALLOW_INTERACTIVE_AUTH
        } else {
            Flags::empty()
        };
        self.call(method, body, flags).await
    }

    /// Not by zbus' proxy: it limits a call by the connection's timeout, or not at all if the call
    /// has flags, and for a known error name it drops the sender.
    async fn call<B, T>(&self, method: &str, body: &B, flags: Flags) -> Result<T>
    where
        B: serde::Serialize + zbus::DynamicType,
        T: for<'d> zbus::wire::DynamicDeserialize<'d>,
    {
        let message = Message::method_call(names::PATH, method)
            .destination(names::NAME)
            .interface(names::INTERFACE)
            .with_flags(flags)
            .build(body)
            .context("make the call")?;
        let serial = message.primary_header().serial_num();
        // Listens before the call: the reply may be quick.
        let mut messages = MessageStream::from(&self.connection);
        self.connection
            .send(&message)
            .await
            .context("call the agent")?;
        while let Some(reply) = messages.next().await {
            let reply = reply.context("wait for the agent's reply")?;
            if reply.header().reply_serial() != Some(serial) {
                continue;
            }
            if reply.message_type() == Type::Error {
                return Err(match explain(&reply) {
                    Error::NoAgent(_) => Error::NoAgent(no_agent().await),
                    error => error,
                }
                .into());
            }
            let answer = reply.body().deserialize();
            return answer.context("parse the agent's reply (is its version different?)");
        }
        Err(Error::Ended).context("the bus closed the connection")
    }
}

/// Why there is none, as far as systemd tells.
async fn no_agent() -> String {
    let found = async { agent::absence(&Systemd::connect().await?).await };
    match tokio::time::timeout(TIMEOUT, found).await {
        Ok(Ok(agent::Absence { why, next, .. })) => format!("{why}; {next}"),
        _ => format!("start it with `systemctl start {}`", agent::UNIT),
    }
}

fn explain(reply: &Message) -> Error {
    let header = reply.header();
    let name = header.error_name().map_or("", |name| name.as_str());
    let body = reply.body();
    let text: String = body.deserialize().unwrap_or_else(|_| name.to_owned());
    let by_bus = header
        .sender()
        .is_some_and(|sender| sender.as_str() == "org.freedesktop.DBus");
    match name {
        "org.freedesktop.DBus.Error.ServiceUnknown"
        | "org.freedesktop.DBus.Error.NameHasNoOwner" => Error::NoAgent(String::new()),
        "org.freedesktop.DBus.Error.NoReply" => Error::Ended,
        names::ACCESS_DENIED if by_bus => Error::Policy,
        names::ACCESS_DENIED | names::NOT_AUTHENTICATED => Error::Denied(text),
        "org.freedesktop.DBus.Error.UnknownMethod" => {
            Error::Other(format!("the agent has a different version: {text}"))
        }
        names::NO_SUCH_SERVICE | names::WRONG_CONFIGURATION => Error::Usage(text),
        names::LIMITS_EXCEEDED => Error::Busy(text),
        names::KEPT => Error::Other(format!("kept: {text}")),
        _ => Error::Other(text),
    }
}
