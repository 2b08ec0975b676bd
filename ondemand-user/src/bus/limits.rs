//! How many calls are served at once: every user of the host may call the agent.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use zbus::{Connection, fdo::DBusProxy, message::Header};

use super::{Error, names::LIMITS_EXCEEDED};

/// A kind of call, and the calls of it that are being served.
pub(super) struct Limit {
    /// Whose calls are counted together: `client`, a connection to the bus, or `user`.
    whose: &'static str,
    /// Maximum number for each of them.
    of_caller: usize,
    /// Maximum number for all of them.
    in_total: usize,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    total: usize,
    /// By unique name, or by user; without zeros.
    callers: HashMap<String, usize>,
}

/// A call that is being served, until it is dropped.
pub(super) struct Pass {
    limit: Arc<Limit>,
    caller: String,
}

impl Limit {
    pub(super) fn of_clients(of_caller: usize, in_total: usize) -> Arc<Self> {
        Self::new("client", of_caller, in_total)
    }

    pub(super) fn of_users(of_caller: usize, in_total: usize) -> Arc<Self> {
        Self::new("user", of_caller, in_total)
    }

    fn new(whose: &'static str, of_caller: usize, in_total: usize) -> Arc<Self> {
        Arc::new(Self {
            whose,
            of_caller,
            in_total,
            pending: Mutex::default(),
        })
    }

    /// Admits a call, without waiting.
    ///
    /// # Errors
    ///
    /// [`LIMITS_EXCEEDED`]; the message says what to do.
    pub(super) fn admit(self: &Arc<Self>, call: &Header<'_>) -> Result<Pass, Error> {
        // The bus names every caller. Those that it does not name share one limit.
        let caller = call.sender().map_or("", |sender| sender.as_str());
        self.admit_from(caller)
    }

    /// Admits a call of a user, without waiting. Root needs no pass.
    ///
    /// # Errors
    ///
    /// Like [`Limit::admit`].
    pub(super) fn admit_user(self: &Arc<Self>, user: u32) -> Result<Option<Pass>, Error> {
        let pass = (user != 0).then(|| self.admit_from(&user.to_string()));
        pass.transpose()
    }

    fn admit_from(self: &Arc<Self>, caller: &str) -> Result<Pass, Error> {
        let mut pending = self.pending();
        let of_caller = pending.callers.get(caller).copied().unwrap_or(0);
        if of_caller >= self.of_caller {
            return Err(Error::new(
                LIMITS_EXCEEDED,
                format!(
                    "{of_caller} calls of this {} are pending, the maximum; wait for a reply \
                     before the next call",
                    self.whose
                ),
            ));
        }
        if pending.total >= self.in_total {
            return Err(Error::new(
                LIMITS_EXCEEDED,
                format!(
                    "{} calls of all {}s are pending, the maximum; call again in a moment \
                     (`busctl list` shows the clients of the bus)",
                    pending.total, self.whose
                ),
            ));
        }
        pending.total += 1;
        *pending.callers.entry(caller.to_owned()).or_default() += 1;
        Ok(Pass {
            limit: Arc::clone(self),
            caller: caller.to_owned(),
        })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut pending = self.limit.pending();
        pending.total -= 1;
        if let Some(of_caller) = pending.callers.get_mut(&self.caller) {
            *of_caller -= 1;
            if *of_caller == 0 {
                pending.callers.remove(&self.caller);
            }
        }
    }
}

/// The users of callers, as the bus knows them. A unique name is never given to another connection.
#[derive(Default)]
pub(super) struct Users(Mutex<HashMap<String, u32>>);

impl Users {
    /// How many are remembered.
    const MOST: usize = 1024;

    /// Returns the user of a call's sender.
    ///
    /// # Errors
    ///
    /// The bus did not name the sender, or does not know it any more.
    pub(super) async fn of(
        &self,
        connection: &Connection,
        call: &Header<'_>,
    ) -> Result<u32, Error> {
        let Some(sender) = call.sender() else {
            return Err(Error::access_denied(
                "the caller is unknown: the bus did not name it",
            ));
        };
        if let Some(user) = self.known().get(sender.as_str()) {
            return Ok(*user);
        }
        let user = async {
            let bus = DBusProxy::new(connection).await?;
            bus.get_connection_unix_user(sender.as_ref().into()).await
        };
        let user = user.await.map_err(|error| {
            Error::access_denied(format!(
                "the caller is unknown: the bus did not name it: {error}"
            ))
        })?;
        let mut known = self.known();
        if known.len() >= Self::MOST {
            known.clear();
        }
        known.insert(sender.as_str().to_owned(), user);
        Ok(user)
    }

    /// The process that has opened the caller's connection.
    ///
    /// # Errors
    ///
    /// As for [`Self::of`].
    pub(super) async fn process(connection: &Connection, call: &Header<'_>) -> Result<u32, Error> {
        let unknown = || Error::access_denied("the caller's process is unknown");
        let sender = call.sender().ok_or_else(unknown)?;
        let process = async {
            let bus = DBusProxy::new(connection).await?;
            bus.get_connection_unix_process_id(sender.as_ref().into())
                .await
        };
        process.await.map_err(|_| unknown())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_limited_for_each_caller_and_in_total() {
        let limit = Limit::of_clients(2, 5);
        let mut passes = Vec::new();
        let mut check =
            |caller: &str, expected: Result<(), &str>| match (limit.admit_from(caller), expected) {
                (Ok(pass), Ok(())) => passes.push(pass),
                (Err(error), Err(words)) => {
                    let message = zbus::DBusError::description(&error).unwrap_or_default();
                    assert!(message.contains(words), "{message}");
                    assert_eq!(zbus::DBusError::name(&error), LIMITS_EXCEEDED);
                }
                (admitted, expected) => {
                    panic!("{caller}: {}, not {expected:?}", admitted.is_ok())
                }
            };
        check(":1.1", Ok(()));
        check(":1.1", Ok(()));
        check(":1.1", Err("2 calls of this client"));
        check(":1.2", Ok(()));
        check(":1.2", Ok(()));
        check(":1.3", Ok(()));
        check(":1.3", Err("5 calls of all clients"));
        check(":1.1", Err("2 calls of this client"));
        // One reply makes room for one call.
        drop(passes.remove(0));
        let again = limit.admit_from(":1.4").ok();
        assert!(again.is_some());
        assert!(limit.admit_from(":1.5").is_err());
        drop((passes, again));
        // A caller that is gone leaves nothing behind.
        let pending = limit.pending();
        assert_eq!((pending.total, pending.callers.len()), (0, 0));
    }
}
