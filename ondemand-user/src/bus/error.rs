//! Errors of calls.

use std::borrow::Cow;

use zbus::{
    DBusError, Message,
    message::Header,
    names::{ErrorName, UniqueName},
};

use super::names::{ACCESS_DENIED, FAILED};

/// A name for programs, and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    name: &'static str,
    message: Cow<'static, str>,
}

impl Error {
    /// An error with one of the names of [`super::names`].
    pub fn new(name: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name,
            message: message.into(),
        }
    }

    /// [`FAILED`].
    pub fn failed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(FAILED, message)
    }

    /// [`ACCESS_DENIED`].
    pub fn access_denied(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ACCESS_DENIED, message)
    }

    /// The agent dropped the request.
    pub fn gone() -> Self {
        Self::failed(
            "the agent dropped the request: it exits, its configuration changed, or systemd does not answer; \
             see `ondemand status`",
        )
    }
}

impl DBusError for Error {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        let mut reply = Message::error(call, self.name());
        if let Some(sender) = call.sender() {
            reply = reply.destination(UniqueName::to_owned(sender));
        }
        reply.build(&self.message.as_ref())
    }

    fn name(&self) -> ErrorName<'_> {
        ErrorName::from_static_str_unchecked(self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.message)
    }
}
