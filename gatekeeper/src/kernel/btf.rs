//! Offsets of kernel structure fields, from the running kernel's BTF.
//!
//! Reads just enough of the format (`Documentation/bpf/btf.rst` in the kernel's sources) to find a named structure and
//! follow a path of member names through nested and anonymous structures and unions.

use std::{collections::HashMap, fs, path::Path};

use gatekeeper_common::KernelLayout;

/// Where the kernel shows its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// What is wrong with the kernel's type information.
#[derive(Debug, thiserror::Error)]
pub enum BtfError {
    /// It cannot be read.
    #[error("cannot read {VMLINUX}; gatekeeper needs a kernel built with CONFIG_DEBUG_INFO_BTF")]
    Read(#[source] std::io::Error),
    /// It is not in the known format.
    #[error("{VMLINUX} is damaged at byte {0}")]
    Damaged(usize),
    /// A field that gatekeeper needs is not there.
    #[error("this kernel has no {structure}.{path}; it is not a kernel that this version of gatekeeper supports")]
    Missing {
        /// The structure.
        structure: &'static str,
        /// The member path.
        path: &'static str,
    },
}

struct Member {
    name: u32,
    kind: u32,
    bits: u32,
}

/// Structures and unions of a kernel.
struct Types {
    strings: Vec<u8>,
    members: HashMap<u32, Vec<Member>>,
    named: HashMap<Vec<u8>, u32>,
    /// Types that only wrap another: typedef, const, volatile, …
    wrapped: HashMap<u32, u32>,
}

/// The layout of the running kernel.
pub fn kernel_layout() -> Result<KernelLayout, BtfError> {
    layout(&fs::read(Path::new(VMLINUX)).map_err(BtfError::Read)?)
}

fn layout(btf: &[u8]) -> Result<KernelLayout, BtfError> {
    let types = Types::parse(btf)?;
    let mut layout = KernelLayout::ZERO;
    for (structure, paths, place) in KernelLayout::fields() {
        let offset = paths.iter().find_map(|path| types.offset(structure, path));
        *place(&mut layout) = offset.ok_or(BtfError::Missing { structure, path: paths[0] })?;
    }
    Ok(layout)
}

fn number(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    let word = bytes.get(at..at + 4).ok_or(BtfError::Damaged(at))?;
    Ok(u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
}

impl Types {
    fn parse(btf: &[u8]) -> Result<Self, BtfError> {
        if btf.len() < 24 || u16::from_le_bytes([btf[0], btf[1]]) != MAGIC {
            return Err(BtfError::Damaged(0));
        }
        let header = number(btf, 4)? as usize;
        let section = |offset: usize, length: usize| {
            let start = header + number(btf, offset)? as usize;
            let end = start + number(btf, length)? as usize;
            btf.get(start..end).ok_or(BtfError::Damaged(offset))
        };
        let (types, strings) = (section(8, 12)?, section(16, 20)?);
        let mut all =
            Self { strings: strings.to_vec(), members: HashMap::new(), named: HashMap::new(), wrapped: HashMap::new() };
        let mut at = 0;
        let mut id = 0;
        while at < types.len() {
            id += 1;
            let (name, info, target) = (number(types, at)?, number(types, at + 4)?, number(types, at + 8)?);
            let (count, kind, flag) = (info & 0xffff, info >> 24 & 0x1f, info >> 31 == 1);
            at += 12;
            match kind {
                KIND_STRUCT | KIND_UNION => {
                    let mut members = Vec::with_capacity(count as usize);
                    for _ in 0..count {
                        let bits = number(types, at + 8)?;
                        // With the flag the upper byte is a bit field's size.
                        let bits = if flag { bits & 0xff_ffff } else { bits };
                        members.push(Member { name: number(types, at)?, kind: number(types, at + 4)?, bits });
                        at += 12;
                    }
                    all.members.insert(id, members);
                    if kind == KIND_STRUCT && name != 0 {
                        let name = all.string(name).to_vec();
                        all.named.entry(name).or_insert(id);
                    }
                }
                // Integer, variable, declaration tag: one more word.
                1 | 14 | 17 => at += 4,
                KIND_ARRAY => at += 12,
                // Enumeration, function prototype: two words each; data section and 64-bit enumeration: three.
                6 | 13 => at += 8 * count as usize,
                15 | 19 => at += 12 * count as usize,
                // Typedef, volatile, const, restrict, type tag.
                8..=11 | 18 => {
                    all.wrapped.insert(id, target);
                }
                // Pointer, forward declaration, function, float.
                2 | 7 | 12 | 16 => {}
                _ => return Err(BtfError::Damaged(at)),
            }
        }
        Ok(all)
    }

    fn string(&self, offset: u32) -> &[u8] {
        let rest = self.strings.get(offset as usize..).unwrap_or_default();
        rest.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// Byte offset of `path` in `structure`.
    fn offset(&self, structure: &str, path: &str) -> Option<u32> {
        let mut id = *self.named.get(structure.as_bytes())?;
        let mut bits = 0;
        for name in path.split('.') {
            let (offset, kind) = self.member(id, name.as_bytes(), 0)?;
            bits += offset;
            id = kind;
        }
        Some(bits / 8)
    }

    /// Bit offset and type of a member, also of one in an anonymous part.
    fn member(&self, id: u32, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        let mut id = id;
        for _ in 0..8 {
            match self.wrapped.get(&id) {
                Some(target) => id = *target,
                None => break,
            }
        }
        for member in self.members.get(&id)? {
            if member.name != 0 {
                if self.string(member.name) == name {
                    return Some((member.bits, member.kind));
                }
            } else if depth < 8
                && let Some((bits, kind)) = self.member(member.kind, name, depth + 1)
            {
                return Some((member.bits + bits, kind));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This machine's own kernel, if it shows its types: gatekeeper's supported kernels are tested in their VMs.
    #[test]
    fn finds_every_field_of_the_running_kernel() {
        let Ok(btf) = fs::read(VMLINUX) else {
            return;
        };
        let layout = layout(&btf).expect("a layout");
        assert_ne!(layout.task_flags, 0);
        assert!(layout.inode_ctime_nsec > layout.inode_ctime_sec);
    }

    #[test]
    fn follows_members_into_anonymous_parts() {
        // struct outer { int a; struct { union { int b; }; }; struct inner c; }; struct inner { int d; int e; };
        let strings = b"\0outer\0inner\0a\0b\0c\0d\0e\0";
        let at = |name: &str| {
            strings
                .windows(name.len() + 2)
                .position(|w| w[0] == 0 && &w[1..=name.len()] == name.as_bytes() && w[name.len() + 1] == 0)
                .map(|at| at as u32 + 1)
                .unwrap()
        };
        let mut types: Vec<u32> = Vec::new();
        let structure = |kind: u32, count: u32| kind << 24 | count;
        types.extend([0, 1 << 24, 4, 32]); // 1: int
        types.extend([at("inner"), structure(4, 2), 8, at("d"), 1, 0, at("e"), 1, 32]); // 2
        types.extend([0, structure(5, 1), 4, at("b"), 1, 0]); // 3: anonymous union
        types.extend([0, structure(4, 1), 4, 0, 3, 0]); // 4: anonymous struct
        types.extend([at("outer"), structure(4, 3), 16, at("a"), 1, 0, 0, 4, 32, at("c"), 2, 64]); // 5
        let mut btf = vec![0x9f, 0xeb, 1, 0];
        let length = types.len() as u32 * 4;
        for word in [24, 0, length, length, strings.len() as u32] {
            btf.extend(u32::to_le_bytes(word));
        }
        types.iter().for_each(|word| btf.extend(word.to_le_bytes()));
        btf.extend(strings);
        let types = Types::parse(&btf).unwrap();
        assert_eq!(types.offset("outer", "a"), Some(0));
        assert_eq!(types.offset("outer", "b"), Some(4));
        assert_eq!(types.offset("outer", "c.e"), Some(12));
        assert_eq!(types.offset("outer", "x"), None);
        assert!(matches!(Types::parse(&btf[..60]), Err(BtfError::Damaged(_))));
        assert!(matches!(Types::parse(b"no"), Err(BtfError::Damaged(0))));
    }
}
