//! The smallest program that can be run: a static executable that exits at once.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Where it is loaded.
const ADDRESS: u64 = 0x40_0000;
/// Sizes of the file header and the only program header (elf(5)).
const HEADERS: u16 = 64 + 56;
/// `mov eax, 60; xor edi, edi; syscall`: exit(0).
const CODE: [u8; 9] = [0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05];

/// Writes the program to `path`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(path: &Path) -> io::Result<()> {
    fs::write(path, image())?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
}

fn image() -> Vec<u8> {
    let mut image = Vec::with_capacity(usize::from(HEADERS) + CODE.len());
    // 64 bits, little endian, version 1.
    image.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let half = |image: &mut Vec<u8>, value: u16| image.extend(value.to_le_bytes());
    let word = |image: &mut Vec<u8>, value: u32| image.extend(value.to_le_bytes());
    let long = |image: &mut Vec<u8>, value: u64| image.extend(value.to_le_bytes());
    half(&mut image, 2); // an executable
    half(&mut image, 62); // for x86-64
    word(&mut image, 1);
    long(&mut image, ADDRESS + u64::from(HEADERS)); // the first instruction
    long(&mut image, 64); // program headers
    long(&mut image, 0); // no sections
    word(&mut image, 0);
    half(&mut image, 64);
    half(&mut image, 56);
    half(&mut image, 1);
    half(&mut image, 64);
    half(&mut image, 0);
    half(&mut image, 0);
    let size = u64::from(HEADERS) + CODE.len() as u64;
    word(&mut image, 1); // to be loaded
    word(&mut image, 5); // read, execute
    long(&mut image, 0);
    long(&mut image, ADDRESS);
    long(&mut image, ADDRESS);
    long(&mut image, size);
    long(&mut image, size);
    long(&mut image, 0x1000);
    image.extend(CODE);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_runs_and_exits() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tiny");
        write(&path).unwrap();
        assert!(std::process::Command::new(&path).status().unwrap().success());
    }
}
