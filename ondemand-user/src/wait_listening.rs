//! `ondemand wait-listening`: holds the proxy back until the backend really listens.
