//! The unit files of every configured service; as `ondemand-generator`, a systemd generator.
