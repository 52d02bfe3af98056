//! The initramfs of the test VM: PID 1, a device node for its messages, and the kernel modules the root file system
//! needs.
//!
//! The archive is a `newc` cpio, written here: the format is simple, and the host needs neither cpio nor root for it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use super::channel::MODULES_DIRECTORY;
use crate::command;

/// What the guest needs before it has a root file system, where it is not built into the kernel.
const WANTED_MODULES: [&str; 5] = ["virtio_pci", "virtio_console", "9pnet_virtio", "9p", "overlay"];
/// And for a network.
const NETWORK_MODULE: &str = "virtio_net";

const FILE: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// Writes the archive for a kernel whose modules lie in `modules`; `network` says whether the guest has one.
///
/// # Errors
/// A file cannot be read, unpacked or written.
pub(crate) fn write(archive: &Path, init: &Path, modules: Option<&Path>, network: bool) -> Result<()> {
    let mut cpio = Cpio::default();
    let init = fs::read(init).with_context(|| format!("cannot read {}", init.display()))?;
    cpio.add("dev", DIRECTORY | 0o755, (0, 0), &[]);
    // PID 1 gets this as its standard streams before it mounts anything.
    cpio.add("dev/console", CHARACTER_DEVICE | 0o600, (5, 1), &[]);
    let directory = MODULES_DIRECTORY.trim_start_matches('/');
    cpio.add(directory, DIRECTORY | 0o755, (0, 0), &[]);
    if let Some(modules) = modules {
        for (index, path) in modules_in_order(modules, network)?.iter().enumerate() {
            let name = module_name(path);
            cpio.add(&format!("{directory}/{index:02}-{name}.ko"), FILE | 0o644, (0, 0), &unpacked(path)?);
        }
    }
    cpio.add("init", FILE | 0o755, (0, 0), &init);
    fs::write(archive, cpio.finish()).with_context(|| format!("cannot write {}", archive.display()))
}

/// The wanted modules and those they need, each after its dependencies. What is built in is not listed by depmod.
fn modules_in_order(modules: &Path, network: bool) -> Result<Vec<PathBuf>> {
    let index = modules.join("modules.dep");
    let text =
        fs::read_to_string(&index).with_context(|| format!("cannot read {} (written by depmod)", index.display()))?;
    let wanted: Vec<_> = WANTED_MODULES.into_iter().chain(network.then_some(NETWORK_MODULE)).collect();
    let order = order(&text, &wanted);
    Ok(order.into_iter().map(|path| modules.join(path)).collect())
}

fn order<'a>(modules_dep: &'a str, wanted: &[&str]) -> Vec<&'a str> {
    let lines = modules_dep.lines().filter_map(|line| line.split_once(':'));
    let needs: BTreeMap<&str, &str> = lines.collect();
    let by_name: BTreeMap<String, &str> = needs.keys().map(|path| (module_name(Path::new(path)), *path)).collect();
    let mut order = Vec::new();
    let mut seen = BTreeSet::new();
    for path in wanted.iter().filter_map(|name| by_name.get(*name)) {
        add_after_needs(path, &needs, &mut seen, &mut order);
    }
    order
}

fn add_after_needs<'a>(
    path: &'a str,
    needs: &BTreeMap<&'a str, &'a str>,
    seen: &mut BTreeSet<&'a str>,
    order: &mut Vec<&'a str>,
) {
    if seen.insert(path) {
        for needed in needs.get(path).copied().unwrap_or_default().split_whitespace() {
            add_after_needs(needed, needs, seen, order);
        }
        order.push(path);
    }
}

/// `kernel/drivers/virtio/virtio-pci.ko.xz` is the module `virtio_pci`.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split(".ko").next().unwrap_or_default().replace('-', "_")
}

fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|extension| extension.to_str()) {
        Some("ko") => return fs::read(path).with_context(|| format!("cannot read {}", path.display())),
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => bail!("{} is compressed in an unknown way", path.display()),
    };
    let output = command::output(Command::new(program).arg("-dc").arg(path))?;
    if !output.status.success() {
        bail!("{program} cannot unpack {}: {}", path.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// A `newc` archive under construction.
#[derive(Default)]
struct Cpio {
    bytes: Vec<u8>,
    entries: u32,
}

impl Cpio {
    /// Adds an entry; all belong to root and have the time zero, so that equal inputs give equal archives.
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.entries += 1;
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let fields = [
            self.entries, // inode
            mode,
            0, // user
            0, // group
            links,
            0, // time
            length(content.len()),
            0, // device the file is on
            0,
            device.0,
            device.1,
            length(name.len() + 1),
            0, // checksum, unused by this variant
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn finish(mut self) -> Vec<u8> {
        self.add("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpio_entries_are_aligned_and_closed() {
        let mut cpio = Cpio::default();
        cpio.add("init", FILE | 0o755, (0, 0), b"hello");
        let bytes = cpio.finish();
        // 6 magic + 13 * 8 header, "init\0" padded from 115 to 116, "hello" padded to 8.
        assert_eq!(&bytes[..6], b"070701");
        assert_eq!(&bytes[14..22], b"000081ed", "mode of a regular executable");
        assert_eq!(&bytes[54..62], b"00000005", "size");
        assert_eq!(&bytes[94..102], b"00000005", "length of the name with its end");
        assert_eq!(&bytes[110..116], b"init\0\0");
        assert_eq!(&bytes[116..124], b"hello\0\0\0");
        assert_eq!(&bytes[124..130], b"070701");
        assert!(bytes.windows(11).any(|window| window == b"TRAILER!!!\0"));
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let modules_dep = "kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz\n\
            kernel/net/9p/9pnet.ko.xz:\n\
            kernel/fs/netfs/netfs.ko.xz:\n\
            kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz\n\
            kernel/sound/unrelated.ko.xz:\n";
        let order = order(modules_dep, &["virtio_pci", "9pnet_virtio", "9p"]);
        let names: Vec<_> = order.iter().map(|path| module_name(Path::new(path))).collect();
        assert_eq!(names, ["9pnet", "9pnet_virtio", "netfs", "9p"]);
    }
}
