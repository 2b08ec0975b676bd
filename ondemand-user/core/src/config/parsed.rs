//! What parsing hands on to the checks between services.

use super::{Service, table::Place};

/// A service and where its values stand.
pub(super) struct Parsed {
    pub service: Service,
    /// As long as `service.listen`.
    pub listen: Vec<Place>,
    /// Where the application's address stands.
    pub backend: Place,
    pub unit: Place,
}
