//! Makes sled's flush reach the disk.
//!
//! sled 0.34.7 writes its log with `pwrite` and then, on Linux, calls only `sync_file_range`
//! (`pagecache/iobuf.rs`, `write_to_log`). By its manual page that call neither writes out a file's
//! metadata nor a drive's volatile cache: after a power cut the log can be empty although every
//! flush succeeded. This module defines the symbol in our own executable, where the linker prefers
//! it to the C library's, and answers the call with `fdatasync`. sled marks a part of its log as
//! stable only after the call has returned, so its own rules for reusing log segments hold too.
//!
//! Nothing guarantees at compile time that the linker picks this definition. [`calls`] lets the
//! store check at every start that a flush really came by; without that it refuses to run.
//!
//! This is the only file with `unsafe` in the crate. Elsewhere than on Linux sled calls
//! `File::sync_all` itself, and nothing is replaced.

use std::sync::atomic::{AtomicU64, Ordering};

static CALLS: AtomicU64 = AtomicU64::new(0);

/// Whether a flush has to raise [`calls`].
pub(crate) const REPLACED: bool = cfg!(target_os = "linux");

/// How often the replacement was called in this process.
pub(crate) fn calls() -> u64 {
    CALLS.load(Ordering::SeqCst)
}

#[cfg(target_os = "linux")]
#[allow(
    unsafe_code,
    reason = "replaces a function of the C library, which sled calls and which does not sync"
)]
mod replacement {
    use std::sync::atomic::Ordering;

    use libc::{EINTR, c_int, c_uint, off64_t};

    /// Same signature as in the C library. Returns 0, or -1 with `errno` set by `fdatasync`.
    ///
    /// The range is ignored: the whole file is synced, which is more than was asked for.
    #[unsafe(no_mangle)]
    pub extern "C" fn sync_file_range(fd: c_int, _offset: off64_t, _bytes: off64_t, _flags: c_uint) -> c_int {
        super::CALLS.fetch_add(1, Ordering::SeqCst);
        loop {
            // SAFETY: `fdatasync` takes any integer; a descriptor that is not open is answered with
            // EBADF. No memory is shared with it.
            let result = unsafe { libc::fdatasync(fd) };
            if result == 0 || std::io::Error::last_os_error().raw_os_error() != Some(EINTR) {
                return result;
            }
        }
    }
}
