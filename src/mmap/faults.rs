//! Reads of mapped files that fail: a file cut short by another program, a disk that gives an error.
//!
//! The system tells of them by the signal SIGBUS, which ends the process unless it is caught. After [`guard`] was called it
//! is caught for our maps: a page of zeros takes the place of the one that could not be read, and [`check`] fails from then on,
//! as long as the map lives. Whoever has read from maps asks it before the result goes out, so that no answer is made of such
//! zeros. A fault elsewhere is left to whoever caught the signal before, or ends the process.
//!
//! The handler does what a handler may: it reads and writes atomic numbers, and maps a page.

use std::path::Path;

use crate::error::{Error, Result};

/// Catches failing reads of maps in this process from now on; again has no effect. Elsewhere than on Linux nothing happens.
///
/// # Errors
/// [`Error::Io`] if the system refuses the handler.
pub fn guard() -> Result<()> {
    #[cfg(target_os = "linux")]
    linux::guard().map_err(Error::io("catch failing reads of", Path::new("mapped files")))?;
    Ok(())
}

/// # Errors
/// [`Error::Io`] if a page of a map that lives could not be read.
pub fn check() -> Result<()> {
    #[cfg(target_os = "linux")]
    if linux::faulted() {
        let what = "a part that was there when it was opened cannot be read (was it cut short?); open the database again";
        return Err(Error::io("read", Path::new("a mapped file"))(std::io::Error::other(what)));
    }
    Ok(())
}

/// Makes a map known, so that faults in it are caught; the number goes to [`forget`]. None if there are too many.
pub(super) fn watch(pages: &[u8]) -> Option<usize> {
    #[cfg(target_os = "linux")]
    return linux::watch(pages.as_ptr() as usize, pages.len());
    #[cfg(not(target_os = "linux"))]
    {
        let _ = pages;
        None
    }
}

/// Forgets a map, before it is taken away.
pub(super) fn forget(number: usize) {
    #[cfg(target_os = "linux")]
    linux::forget(number);
    #[cfg(not(target_os = "linux"))]
    let _ = number;
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Mutex, OnceLock};

    /// Maps that can be watched at a time: a few thousand segments.
    const WATCHED: usize = 16_384;

    struct Watched {
        /// Address of the first byte; 0: free, 1: being filled in.
        start: AtomicUsize,
        end: AtomicUsize,
        faulted: AtomicBool,
    }

    static MAPS: [Watched; WATCHED] = [const {
        Watched { start: AtomicUsize::new(0), end: AtomicUsize::new(0), faulted: AtomicBool::new(false) }
    }; WATCHED];
    /// All beyond this were never in use.
    static USED: AtomicUsize = AtomicUsize::new(0);
    /// Maps with a page of zeros.
    static FAULTED: AtomicUsize = AtomicUsize::new(0);
    /// What handled the signal before.
    static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
    static PAGE: AtomicUsize = AtomicUsize::new(4096);

    pub fn faulted() -> bool {
        FAULTED.load(Ordering::Acquire) > 0
    }

    pub fn watch(start: usize, len: usize) -> Option<usize> {
        let free =
            |map: &Watched| map.start.compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        let number = MAPS.iter().position(free)?;
        let map = MAPS.get(number)?;
        map.end.store(start + len, Ordering::Relaxed);
        map.faulted.store(false, Ordering::Relaxed);
        USED.fetch_max(number + 1, Ordering::AcqRel);
        map.start.store(start, Ordering::Release);
        Some(number)
    }

    pub fn forget(number: usize) {
        let Some(map) = MAPS.get(number) else { return };
        map.start.store(1, Ordering::Release);
        if map.faulted.swap(false, Ordering::AcqRel) {
            FAULTED.fetch_sub(1, Ordering::AcqRel);
        }
        map.start.store(0, Ordering::Release);
    }

    pub fn guard() -> io::Result<()> {
        static ONCE: Mutex<bool> = Mutex::new(false);
        let mut done = ONCE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if *done {
            return Ok(());
        }
        PAGE.store(super::super::page_len(), Ordering::Relaxed);
        // SAFETY: a `sigaction` is numbers and addresses, for which zero bytes are valid; the calls fill or read those they
        // are given. The handler does nothing that a handler may not.
        unsafe {
            let mut before: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut before) != 0 {
                return Err(io::Error::last_os_error());
            }
            let _ = BEFORE.set(before);
            let mut ours: libc::sigaction = std::mem::zeroed();
            let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = handle;
            ours.sa_sigaction = handler as usize;
            ours.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut ours.sa_mask);
            if libc::sigaction(libc::SIGBUS, &raw const ours, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        *done = true;
        Ok(())
    }

    extern "C" fn handle(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the system hands a valid `siginfo_t` of a fault to a handler with SA_SIGINFO.
        let address = unsafe { (*info).si_addr() } as usize;
        let known = MAPS.iter().take(USED.load(Ordering::Acquire)).find(|map| {
            let start = map.start.load(Ordering::Acquire);
            start > 1 && (start..map.end.load(Ordering::Relaxed)).contains(&address)
        });
        let Some(map) = known else { return pass_on(signal, info, context) };
        let page = PAGE.load(Ordering::Relaxed);
        let start = address / page * page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        // SAFETY: the page lies in a read-only map that is alive, for the thread that faulted holds it; zeros take its place.
        // What is read from maps admits any bytes.
        let zeros = unsafe { libc::mmap(start as *mut libc::c_void, page, libc::PROT_READ, flags, -1, 0) };
        if zeros == libc::MAP_FAILED {
            return pass_on(signal, info, context);
        }
        if !map.faulted.swap(true, Ordering::AcqRel) {
            FAULTED.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Leaves a fault that is not ours to whoever handled the signal before. By default it comes again and ends the process.
    fn pass_on(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        let Some(before) = BEFORE.get() else { return };
        let action = before.sa_sigaction;
        // SAFETY: an address that is neither of the constants is that of a handler, of the kind that the flag says.
        unsafe {
            if action == libc::SIG_DFL || action == libc::SIG_IGN {
                libc::sigaction(signal, before, std::ptr::null_mut());
            } else if before.sa_flags & libc::SA_SIGINFO != 0 {
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(action);
                handler(signal, info, context);
            } else {
                let handler: extern "C" fn(libc::c_int) = std::mem::transmute(action);
                handler(signal);
            }
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::Map;
    use super::*;

    #[test]
    fn a_file_that_is_cut_short_gives_zeros_and_an_error_until_its_map_is_gone() {
        guard().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, vec![7u8; 100_000]).unwrap();
        let map = Map::open(&path).unwrap();
        assert_eq!(map[99_999], 7);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        file.set_len(5_000).unwrap();
        assert_eq!((map[100], map[50_000]), (7, 0));
        assert_eq!(check().unwrap_err().exit_code(), 4);
        // Once more on another page; then all is well again.
        assert_eq!(map[90_000], 0);
        drop(map);
        check().unwrap();
        assert_eq!(Map::open(&path).unwrap().len(), 5_000);
    }
}
