//! What the engine uses of parking_lot, made of shuttle's locks: at each of them the scheduler may turn to another thread.
//!
//! As in parking_lot, a lock that was held in a panic is not poisoned.

use std::sync::{LockResult, PoisonError, TryLockError};
use std::time::Duration;

pub use shuttle::sync::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};

fn sound<T>(result: LockResult<T>) -> T {
    result.unwrap_or_else(PoisonError::into_inner)
}

/// A mutual exclusion.
#[derive(Debug, Default)]
pub struct Mutex<T>(shuttle::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// Around a value.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }

    /// Waits for it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        sound(self.0.lock())
    }

    /// Takes it if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// The value, for its only owner.
    pub fn get_mut(&mut self) -> &mut T {
        sound(self.0.get_mut())
    }

    /// The value.
    pub fn into_inner(self) -> T {
        sound(self.0.into_inner())
    }
}

/// One writer or many readers.
#[derive(Debug, Default)]
pub struct RwLock<T>(shuttle::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// Around a value.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }

    /// Waits until nobody writes.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        sound(self.0.read())
    }

    /// Does not wait while somebody writes.
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        match self.0.try_read() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Waits until nobody reads or writes.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        sound(self.0.write())
    }
}

/// For the thread that maintains a database, which no schedule runs: schedules call what it would.
#[derive(Debug, Default)]
pub struct Condvar;

impl Condvar {
    /// Lets the others go on once; no time passes.
    pub fn wait_for<T>(&self, _guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
        shuttle::thread::yield_now();
    }

    /// Wakes all that wait: nobody does.
    pub fn notify_all(&self) {}
}
