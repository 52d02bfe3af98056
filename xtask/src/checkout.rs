//! Where things lie: the checkout and all that is made below its `target` directory.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The places of one checkout. Everything that `cargo xtask` downloads or builds lies below `target`.
#[derive(Debug, Clone)]
pub(crate) struct Checkout {
    root: PathBuf,
    target: PathBuf,
}

impl Checkout {
    /// The checkout this program was built from.
    ///
    /// # Errors
    /// It is not where it was when this program was built.
    pub(crate) fn find() -> Result<Self> {
        // cargo sets the variable for `cargo run`, so a moved checkout is found; the built-in path is for direct calls.
        let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let manifest = PathBuf::from(manifest);
        let root = manifest.parent().unwrap_or(&manifest);
        let root = root.canonicalize().with_context(|| {
            format!("the checkout {} is not there; run `cargo xtask` from inside the checkout", root.display())
        })?;
        let target = match env::var_os("CARGO_TARGET_DIR") {
            Some(target) => root.join(target),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// A checkout at `root`, for tests.
    #[cfg(test)]
    pub(crate) fn at(root: &Path) -> Self {
        Self { root: root.to_path_buf(), target: root.join("target") }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// cargo's target directory.
    pub(crate) fn target(&self) -> &Path {
        &self.target
    }

    /// The directory with the built programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.target.join("release")
    }

    /// What `setup` installs by `cargo install --root`.
    pub(crate) fn tools(&self) -> PathBuf {
        self.own("tools")
    }

    /// Kernel packages and, one directory per version, what was in them.
    pub(crate) fn kernels(&self) -> PathBuf {
        self.own("kernels")
    }

    /// Run-time files of the test VM.
    pub(crate) fn vm(&self) -> PathBuf {
        self.own("vm")
    }

    /// The built BPF object.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.own("bpf/gatekeeper-ebpf")
    }

    /// The BPF object with empty programs, for the benchmark.
    pub(crate) fn empty_bpf_object(&self) -> PathBuf {
        self.own("bpf/gatekeeper-empty")
    }

    /// The file below the directory that only `cargo xtask` writes.
    pub(crate) fn own(&self, name: &str) -> PathBuf {
        self.target.join("xtask").join(name)
    }
}
