//! `register`: gives a [`Vfs`] to a SQLite library under a name, once; called by `verneuil_vfs`.

use crate::Api;
use crate::vfs::Vfs;
use crate::vfs_callbacks::{AppData, table};
use std::any::TypeId;
use std::ffi::CStr;
use std::sync::{Mutex, PoisonError};

/// Why a VFS could not be registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterError {
    /// Somebody else's VFS has that name in this library; it was left alone.
    NameTaken {
        /// The name.
        name: String,
    },
    /// `sqlite3_vfs_register` failed.
    Refused {
        /// With this code.
        code: i32,
    },
}

impl std::fmt::Display for RegisterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RegisterError::NameTaken { name } => write!(
                f,
                "a VFS named {name:?} is already registered by another library (a second copy of this extension?)"
            ),
            RegisterError::Refused { code } => {
                write!(f, "sqlite3_vfs_register failed with code {code}")
            }
        }
    }
}

impl std::error::Error for RegisterError {}

/// The tables that this copy of the code registered, in whatever library; only to tell them from others' tables.
static REGISTERED: Mutex<Vec<(usize, TypeId)>> = Mutex::new(Vec::new());

/// Registers a VFS for the rest of the process; a second registration of the same type under the same name in the same
/// library keeps the first one, and only makes it the default if `make_default` says so.
///
/// `make` builds the VFS when it is needed. The answer says whether it was.
///
/// # Errors
/// When somebody else has the name, or SQLite refuses. Nothing is registered then.
pub fn register<V: Vfs>(
    api: Api,
    name: &CStr,
    make_default: bool,
    make: impl FnOnce() -> V,
) -> Result<bool, RegisterError> {
    // Held throughout: looking and registering must not be torn apart by another thread that loads the extension.
    let mut ours = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);

    let known = api.vfs_find(name);
    let (vfs, is_new) = if known.is_null() {
        let app_data = Box::leak(Box::new(AppData {
            api,
            vfs: make(),
            name: name.to_owned(),
        }));
        (
            std::ptr::from_mut(Box::leak(Box::new(table(app_data)))),
            true,
        )
    } else if ours.contains(&(known.addr(), TypeId::of::<V>())) {
        if !make_default {
            return Ok(false);
        }
        (known, false)
    } else {
        return Err(RegisterError::NameTaken {
            name: name.to_string_lossy().into_owned(),
        });
    };
    // SAFETY: a complete table that was leaked on purpose: SQLite keeps it until the process ends.
    match unsafe { api.vfs_register(vfs, make_default) } {
        0 => {
            if is_new {
                ours.push((vfs.addr(), TypeId::of::<V>()));
            }
            Ok(is_new)
        }
        code => Err(RegisterError::Refused { code }),
    }
}

/// Did this copy of the code register a VFS of that type under that name in that library?
#[must_use]
pub fn is_registered<V: Vfs>(api: Api, name: &CStr) -> bool {
    let known = api.vfs_find(name);
    let ours = REGISTERED.lock().unwrap_or_else(PoisonError::into_inner);
    !known.is_null() && ours.contains(&(known.addr(), TypeId::of::<V>()))
}
