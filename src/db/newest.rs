//! The newest state of a database, for whoever asks.

use std::sync::Arc;

use crate::sync::RwLock;

/// Holds a value that is replaced as a whole. Who asked for it keeps what they got, however often it is replaced, and what
/// nobody keeps is dropped outside of the lock.
pub(crate) struct Newest<T>(RwLock<Arc<T>>);

impl<T> Newest<T> {
    /// Around the first value.
    pub fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value as it is now.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.read())
    }

    /// Replaces it, and returns the one before.
    pub fn replace(&self, value: Arc<T>) -> Arc<T> {
        std::mem::replace(&mut *self.0.write(), value)
    }
}
