//! Who follows the services on the bus: signals about all properties are made for them, and for nobody else.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use zbus::{Connection, message::Header};

use super::end::End;

/// Maximum number of listeners. One more reads the properties as before, and hears of states and holds alone.
const MOST: usize = 256;

/// The clients that have read all properties of an object, and are still on the bus: they keep what they have read up to
/// date by signals. (systemd has a method for that, `Subscribe`, which no client of `ObjectManager` calls.)
#[derive(Clone, Debug, Default)]
pub struct Listeners(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    count: AtomicUsize,
    /// Increased for each that comes: it knows nothing of what was told before.
    generation: AtomicU64,
    names: Mutex<HashSet<String>>,
}

impl Listeners {
    /// Whether there are any.
    pub fn any(&self) -> bool {
        self.0.count.load(Ordering::Relaxed) > 0
    }

    /// Changes when one comes.
    pub(super) fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Relaxed)
    }

    /// The caller listens until it leaves the bus.
    pub(super) async fn join(&self, connection: &Connection, call: &Header<'_>) {
        let Some(name) = call.sender().map(|sender| sender.as_str().to_owned()) else {
            return;
        };
        if !self.add(&name) {
            return;
        }
        let this = self.clone();
        // A caller that leaves at once, such as busctl, or one whose end cannot be heard of, is none.
        match End::of(connection, call).await {
            Ok(end) if end.is_there().await => {
                tokio::spawn(async move {
                    end.wait().await;
                    this.remove(&name);
                });
            }
            _ => self.remove(&name),
        }
    }

    /// Returns whether it is new, and there is room for it.
    fn add(&self, name: &str) -> bool {
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        self.0.generation.fetch_add(1, Ordering::Relaxed);
        if names.len() >= MOST || !names.insert(name.to_owned()) {
            return false;
        }
        self.0.count.store(names.len(), Ordering::Relaxed);
        true
    }

    fn remove(&self, name: &str) {
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.remove(name);
        self.0.count.store(names.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_once_and_not_too_many() {
        let listeners = Listeners::default();
        assert!(!listeners.any());
        assert!(listeners.add(":1.1") && listeners.any());
        let before = listeners.generation();
        // It has read everything again.
        assert!(!listeners.add(":1.1"));
        assert_ne!(listeners.generation(), before);
        for number in 2..=MOST {
            assert!(listeners.add(&format!(":1.{number}")), "{number}");
        }
        assert!(!listeners.add(":2.1"));
        for number in 1..=MOST {
            listeners.remove(&format!(":1.{number}"));
        }
        assert!(!listeners.any());
    }
}
