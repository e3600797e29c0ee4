//! Intel's Multi-Buffer Crypto for IPsec, by its direct interface: one call a packet, nothing waits for others.

use std::{ffi::c_void, ptr::NonNull, sync::OnceLock};

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::{Forged, TAG_LEN};

unsafe extern "C" {
    fn ipsx_ipsec_mb_open() -> *mut c_void;
    fn ipsx_ipsec_mb_seal(
        manager: *const c_void,
        key: *const u8,
        nonce: *const u8,
        data: *mut u8,
        len: u64,
        tag: *mut u8,
    );
    fn ipsx_ipsec_mb_open_into(
        manager: *const c_void,
        key: *const u8,
        nonce: *const u8,
        sealed: *const u8,
        len: u64,
        plain: *mut u8,
        tag: *mut u8,
    );
}

/// The library's table of functions for this processor, which lives as long as the program.
#[derive(Clone, Copy)]
struct Manager(NonNull<c_void>);

// SAFETY: the direct interface only reads the manager; what changes is in the caller's context.
unsafe impl Send for Manager {}
// SAFETY: as above.
unsafe impl Sync for Manager {}

impl Manager {
    fn get() -> Option<Self> {
        static MANAGER: OnceLock<Option<Manager>> = OnceLock::new();
        // SAFETY: it takes nothing, and returns a manager that nobody else has, or null.
        *MANAGER.get_or_init(|| NonNull::new(unsafe { ipsx_ipsec_mb_open() }).map(Manager))
    }
}

pub(crate) struct Key {
    manager: Manager,
    bytes: Zeroizing<[u8; 32]>,
}

impl Key {
    /// None where the processor has no AVX-512.
    pub(crate) fn new(key: &[u8; 32]) -> Option<Self> {
        Some(Self {
            manager: Manager::get()?,
            bytes: Zeroizing::new(*key),
        })
    }

    #[inline]
    pub(crate) fn seal(&self, nonce: &[u8; 12], data: &mut [u8]) -> [u8; TAG_LEN] {
        let mut tag = [0; TAG_LEN];
        // SAFETY: the manager is initialised, key, nonce and tag have the lengths that the function reads and writes, and
        // `data` is ours for `len` bytes.
        unsafe {
            ipsx_ipsec_mb_seal(
                self.manager.0.as_ptr(),
                self.bytes.as_ptr(),
                nonce.as_ptr(),
                data.as_mut_ptr(),
                data.len() as u64,
                tag.as_mut_ptr(),
            );
        }
        tag
    }

    #[inline]
    pub(crate) fn open<'p>(
        &self,
        nonce: &[u8; 12],
        sealed: &[u8],
        plain: &'p mut [u8],
    ) -> Result<&'p mut [u8], Forged> {
        let (sealed, expected) = sealed.split_last_chunk::<TAG_LEN>().ok_or(Forged)?;
        let plain = &mut plain[..sealed.len()];
        let mut tag = [0; TAG_LEN];
        // SAFETY: as in `seal`; `sealed` and `plain` have the same length and, being borrowed apart, do not overlap.
        unsafe {
            ipsx_ipsec_mb_open_into(
                self.manager.0.as_ptr(),
                self.bytes.as_ptr(),
                nonce.as_ptr(),
                sealed.as_ptr(),
                sealed.len() as u64,
                plain.as_mut_ptr(),
                tag.as_mut_ptr(),
            );
        }
        if !bool::from(tag.ct_eq(expected)) {
            plain.fill(0);
            return Err(Forged);
        }
        Ok(plain)
    }
}
