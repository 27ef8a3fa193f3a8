//! Read-only maps of immutable files.
