//! Takes in the kernel side, which `cargo xtask build` compiles first and names in `GATEKEEPER_BPF_OBJECT`.
//!
//! Without it (a plain `cargo check`) the binary has no kernel side and says so when it would need it.

use std::{env, fs, path::PathBuf};

#[expect(clippy::expect_used, reason = "a build script has nobody else to tell")]
fn main() {
    println!("cargo::rerun-if-env-changed=GATEKEEPER_BPF_OBJECT");
    println!("cargo::rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("kernel-side");
    match env::var_os("GATEKEEPER_BPF_OBJECT") {
        Some(object) => {
            let object = PathBuf::from(object);
            println!("cargo::rerun-if-changed={}", object.display());
            fs::copy(&object, &out).unwrap_or_else(|err| panic!("GATEKEEPER_BPF_OBJECT={}: {err}", object.display()));
        }
        None => fs::write(&out, []).expect("OUT_DIR can be written"),
    }
}
