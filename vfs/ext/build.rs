//! Keeps symbols of dependencies that are marked for C (there are some below the AWS SDK) out of the extension's dynamic
//! symbol table: a process may load other libraries that contain the same ones. Only the entry point remains, which is in
//! this crate itself.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
}
