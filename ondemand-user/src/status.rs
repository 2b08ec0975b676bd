//! `ondemand status`: a table for people, JSON for scripts.
