//! The four units of a service.

use super::Service;

/// One value for each unit of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerUnit<T> {
    /// Of the application's own unit.
    pub backend: T,
    /// Of the proxy.
    pub proxy: T,
    /// Of the lease.
    pub lease: T,
    /// Of the front socket.
    pub socket: T,
}

/// The names of a service's units.
pub type UnitNames = PerUnit<String>;

impl<T> PerUnit<T> {
    /// All four: backend, proxy, lease, front socket.
    pub fn each(&self) -> [&T; 4] {
        [&self.backend, &self.proxy, &self.lease, &self.socket]
    }

    /// What `find` returns for each. `None`: it returns nothing for one of them.
    pub fn find<'t, U>(&'t self, find: impl Fn(&'t T) -> Option<U>) -> Option<PerUnit<U>> {
        Some(PerUnit {
            backend: find(&self.backend)?,
            proxy: find(&self.proxy)?,
            lease: find(&self.lease)?,
            socket: find(&self.socket)?,
        })
    }
}

/// [`Service::room_unit`] of the service of this name.
pub fn room_unit(service: &str) -> String {
    format!("ondemand-room@{service}.service")
}

impl Service {
    /// The names of its units.
    pub fn unit_names(&self) -> UnitNames {
        let own = |kind: &str| format!("ondemand-{}.{kind}", self.name);
        UnitNames {
            backend: self.unit.clone(),
            proxy: own("service"),
            lease: own("target"),
            socket: own("socket"),
        }
    }

    /// `ondemand-NAME.socket`, the front socket.
    pub fn socket_unit(&self) -> String {
        self.unit_names().socket
    }

    /// `ondemand-NAME.service`, the proxy.
    pub fn proxy_unit(&self) -> String {
        self.unit_names().proxy
    }

    /// `ondemand-NAME.timer`, which starts a failed front socket again.
    pub fn timer_unit(&self) -> String {
        format!("ondemand-{}.timer", self.name)
    }

    /// `ondemand-room@NAME.service`, which starts before the application of a group, and ends when there is room. No
    /// service has an `@` in its name, so it is no other one's proxy.
    pub fn room_unit(&self) -> String {
        room_unit(&self.name)
    }

    /// `ondemand-reclaim@NAME.service`, which has the kernel take back the memory of the application when it is frozen
    /// (`freeze_reclaim`).
    pub fn reclaim_unit(&self) -> String {
        format!("ondemand-reclaim@{}.service", self.name)
    }

    /// `ondemand-NAME.target`, the lease.
    pub fn lease_unit(&self) -> String {
        self.unit_names().lease
    }
}
