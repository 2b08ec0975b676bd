//! What parsing hands on to the checks between services.

use super::{Service, table::Place};

/// A service and where its values stand.
pub(super) struct Parsed<'t> {
    pub service: Service,
    /// As long as `service.listen`.
    pub listen: Vec<Place<'t>>,
    /// Where the application's address stands.
    pub backend: Place<'t>,
    pub unit: Place<'t>,
    /// `group`, if it has one.
    pub group: Option<Place<'t>>,
}
