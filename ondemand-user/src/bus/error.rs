//! How a call fails.

use std::borrow::Cow;

use zbus::{
    DBusError, Message,
    message::Header,
    names::{ErrorName, UniqueName},
};

/// The service stays up.
pub const KEPT: &str = "org.ondemand1.Error.Kept";
/// There is no service of that name.
pub const NO_SUCH_SERVICE: &str = "org.ondemand1.Error.NoSuchService";
/// The configuration cannot be used; the message names file, line and key.
pub const WRONG_CONFIGURATION: &str = "org.ondemand1.Error.WrongConfiguration";
/// It was tried and failed.
pub const FAILED: &str = "org.ondemand1.Error.Failed";
/// Whoever called may not.
pub const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
/// The same, but the user may be asked for a password, and the call does not allow it.
pub const NOT_AUTHENTICATED: &str = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";

/// A name that programs branch on, and a message for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    name: &'static str,
    message: Cow<'static, str>,
}

impl Error {
    /// With one of the names of this module.
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

    /// The agent dropped the question.
    pub fn gone() -> Self {
        Self::failed(
            "the agent gave it up: it ends, its configuration changed, or systemd went away; \
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
