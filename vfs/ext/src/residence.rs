//! Where code and SQLite libraries were loaded from, and keeping them there; called by the entry points and `setup`.

use std::ffi::c_void;

/// Is this code part of the main program, rather than of a library that something loaded?
pub(crate) fn in_main_program() -> bool {
    // SAFETY: reads the auxiliary vector; an entry that is missing is 0.
    let program_headers = unsafe { libc::getauxval(libc::AT_PHDR) };
    let here = module_of(in_main_program as *const c_void);
    let program = module_of(std::ptr::with_exposed_provenance(
        usize::try_from(program_headers).unwrap_or(0),
    ));
    match (here, program) {
        (Some(here), Some(program)) => here.dli_fbase == program.dli_fbase,
        // A program without dynamic linking has no modules, and is all there is.
        _ => true,
    }
}

/// Keeps the library that holds an address in memory for the rest of the process, if it is one that could be unloaded:
/// its list of VFSes and its log will be used from now on.
pub(crate) fn keep_loaded(address: *const c_void) {
    let Some(module) = module_of(address) else {
        return;
    };
    if module.dli_fname.is_null() {
        return;
    }
    // SAFETY: a NUL-terminated name that the dynamic linker gave. NOLOAD loads nothing: it finds what is there, and does
    // nothing for the main program. The handle is not needed: NODELETE outlives it.
    unsafe {
        libc::dlopen(
            module.dli_fname,
            libc::RTLD_NOW | libc::RTLD_NOLOAD | libc::RTLD_NODELETE,
        )
    };
}

fn module_of(address: *const c_void) -> Option<libc::Dl_info> {
    let mut info = libc::Dl_info {
        dli_fname: c"".as_ptr(),
        dli_fbase: std::ptr::null_mut(),
        dli_sname: std::ptr::null(),
        dli_saddr: std::ptr::null_mut(),
    };
    // SAFETY: any address may be asked about; the answer goes into a structure of our own.
    (unsafe { libc::dladdr(address, &raw mut info) } != 0).then_some(info)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_is_its_own_main_program_and_libc_is_not() {
        assert!(in_main_program());
        let libc_module = module_of(libc::getauxval as *const c_void).unwrap();
        let here = module_of(in_main_program as *const c_void).unwrap();
        assert_ne!(libc_module.dli_fbase, here.dli_fbase);
        keep_loaded(libc::getauxval as *const c_void);
    }
}
