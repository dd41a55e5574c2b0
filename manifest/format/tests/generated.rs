//! Keeps src/generated/ what proto/manifest.proto says, without protoc on the build machine.

use std::path::Path;

const FILE: &str = "verneuil.manifest.v1.rs";

#[test]
fn generated_code_is_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let checked_in = root.join("src/generated").join(FILE);
    let out = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["manifest.proto"], [root.join("proto")]).unwrap();
    prost_build::Config::new()
        .out_dir(out.path())
        .compile_fds(descriptors)
        .unwrap();
    let current = std::fs::read_to_string(out.path().join(FILE)).unwrap();
    if std::env::var_os("VERNEUIL_REGENERATE").is_some() {
        std::fs::write(&checked_in, &current).unwrap();
    }
    let checked_in = std::fs::read_to_string(&checked_in).unwrap();
    assert!(
        checked_in == current,
        "run this test once with VERNEUIL_REGENERATE=1, and look at what changed"
    );
}
