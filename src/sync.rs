//! Locks and atomic numbers of those types whose threads loom runs in every order, where these are loom's (`tools/orders`).

pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

pub(crate) use parking_lot::{Mutex, RwLock};
