//! Resolved paths, from the directory entry up to the root of the mount tree.
//!
//! `bpf_d_path` will not do: it is allowed in few hooks, and it stops at the caller's own root, so that a chroot could
//! rename everything. This walk looks at the mount tree alone. A concurrent rename can make it see a mixed path; the
//! hook runs again before the action goes on, and a different path is a different digest.

use core::{arch::asm, ffi::c_void};

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use gatekeeper_common::{
    Refusal,
    limits::{PATH_BYTES, PATH_STEPS, TEXT_BYTES},
};

use crate::{
    atomic::opaque,
    layout::offset,
    read::{self, Typed},
    scratch::{Name, REFUSED, SHORT_NAME_BYTES, Scratch, Walk},
    task::Current,
};

/// `NAME_MAX` and a NUL.
const NAME_BYTES: u32 = 256;
const ROOT: u64 = 1;
const NOWHERE: u64 = 2;

/// Where a path begins.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// In the mount namespace of the current task.
    Own,
    /// In another one, in none, in one that an unprivileged user made, or on a file system without a path.
    Foreign,
    /// On a mount that the kernel keeps for itself (overlayfs layers, pipes, memfd).
    Internal,
}

/// `MNT_NS_INTERNAL`, from `fs/mount.h`: `ERR_PTR(-EINVAL)`.
const MNT_NS_INTERNAL: u64 = -22_i64 as u64;

/// Entries that are walked by plain loads, in the first mount. What is deeper, or behind a mount point, costs helper
/// calls.
const PLAIN_STEPS: u32 = 24;

/// Appends the path of `dentry` on `vfsmount` to the text. Returns its length and where it begins.
#[inline(always)]
pub(crate) fn append(slot: *mut Scratch, vfsmount: Typed, dentry: Typed) -> Result<(u32, View), Refusal> {
    let mount = vfsmount.address().wrapping_sub(offset!(mount_mnt) as u64);
    let namespace: u64 = read::kernel(mount, offset!(mount_ns))?;
    // SAFETY: a claimed slot.
    enter(unsafe { &mut (*slot).walk }, mount)?;
    let length = run(slot, dentry)?;
    // SAFETY: a claimed slot.
    let nowhere = unsafe { (*slot).walk.outcome } == NOWHERE;
    let own = Current::new().pointer(offset!(task_nsproxy)).pointer(offset!(nsproxy_mnt));
    // Whoever has a user namespace of their own may mount what they like: names in there prove nothing.
    let level: u32 = own.pointer(offset!(mnt_ns_user)).field(offset!(user_ns_level));
    let view = if namespace == MNT_NS_INTERNAL {
        View::Internal
    } else if namespace != own.address() || level != 0 || nowhere {
        View::Foreign
    } else {
        View::Own
    };
    Ok((length, view))
}

/// Appends the path of `dentry` below the root of its file system, for hooks that know no mount.
#[inline(always)]
pub(crate) fn append_in_filesystem(slot: *mut Scratch, dentry: Typed) -> Result<u32, Refusal> {
    // SAFETY: a claimed slot.
    let walk = unsafe { &mut (*slot).walk };
    walk.mount = 0;
    walk.root = 0;
    run(slot, dentry)
}

/// The walk goes on in this mount.
#[inline(always)]
fn enter(walk: &mut Walk, mount: u64) -> Result<(), Refusal> {
    let (parent, point) = (offset!(mount_parent), offset!(mount_mountpoint));
    let root = offset!(mount_mnt) + offset!(vfsmount_root);
    walk.mount = mount;
    [walk.parent, walk.point, walk.root] = if point == parent + 8 && root == parent + 16 {
        // As it is in all kernels so far: one call in place of three.
        read::kernel(mount, parent)?
    } else {
        [read::kernel(mount, parent)?, read::kernel(mount, point)?, read::kernel(mount, root)?]
    };
    Ok(())
}

/// A directory entry's parent, and the address of its name.
#[inline(always)]
fn entry(dentry: u64) -> Result<(u64, u64), Refusal> {
    let (parent, name) = (offset!(dentry_parent), offset!(dentry_name));
    if name == parent + 16 {
        // As above.
        let [parent, _, name] = read::kernel(dentry, parent)?;
        return Ok((parent, name));
    }
    Ok((read::kernel(dentry, parent)?, read::kernel(dentry, name)?))
}

#[inline(always)]
fn run(slot: *mut Scratch, dentry: Typed) -> Result<u32, Refusal> {
    climb_plain(slot, dentry);
    // SAFETY: a claimed slot.
    let walk = unsafe { &mut (*slot).walk };
    walk.outcome = 0;
    walk.start = walk.end;
    read::repeat(PATH_STEPS as u32 + 1, climb, slot);
    if walk.outcome >= REFUSED {
        return Err(Refusal((walk.outcome - REFUSED) as u16));
    }
    if walk.outcome == 0 {
        return Err(Refusal::PATH_TOO_LONG);
    }
    read::repeat(PATH_STEPS as u32, write_name, slot);
    if walk.outcome >= REFUSED {
        return Err(Refusal((walk.outcome - REFUSED) as u16));
    }
    if walk.end == walk.start {
        let end = opaque(walk.end);
        if end > TEXT_BYTES as u64 {
            return Err(Refusal::PATH_TOO_LONG);
        }
        // SAFETY: inside the text, which is longer than TEXT_BYTES.
        unsafe { *(&raw mut (*slot).text).cast::<u8>().add(end as usize) = b'/' };
        walk.end = end + 1;
    }
    Ok((walk.end - walk.start) as u32)
}

/// Climbs as far as plain loads lead: to the root of the mount, at most [`PLAIN_STEPS`]. Leaves the rest to [`climb`].
#[inline(always)]
fn climb_plain(slot: *mut Scratch, dentry: Typed) {
    // SAFETY: a claimed slot.
    let (walk, chain) = unsafe { (&mut (*slot).walk, (&raw mut (*slot).chain).cast::<Name>()) };
    let root = walk.root;
    let mut dentry = dentry;
    let mut steps = 0;
    while steps < PLAIN_STEPS {
        let parent = dentry.pointer(offset!(dentry_parent));
        if dentry.address() == root || dentry.address() == parent.address() {
            break;
        }
        // SAFETY: fewer steps than the chain is long.
        note_name(unsafe { &mut *chain.add(steps as usize) }, dentry);
        dentry = parent;
        steps += 1;
    }
    walk.depth = u64::from(steps);
    walk.dentry = dentry.address();
}

/// Notes an entry's name, and copies a short one, which lies in the entry itself.
#[inline(always)]
fn note_name(name: &mut Name, dentry: Typed) {
    let inside = offset!(dentry_short_name);
    name.address = dentry.field(offset!(dentry_name));
    name.length = 0;
    let length: u32 = dentry.field(offset!(dentry_name_len));
    if name.address == dentry.address() + inside as u64 && length as usize <= SHORT_NAME_BYTES {
        name.length = u64::from(length);
        name.short =
            [dentry.field(inside), dentry.field(inside + 8), dentry.field(inside + 16), dentry.field(inside + 24)];
    }
}

/// One step towards the root. Returns 1 to end the loop.
unsafe extern "C" fn climb(_: u32, slot: *const *mut Scratch) -> i64 {
    // SAFETY: the context that `repeat` passes on.
    let slot = unsafe { *slot };
    // SAFETY: the slot that `run` was given.
    let (walk, chain) = unsafe { (&mut (*slot).walk, (&raw mut (*slot).chain).cast::<Name>()) };
    match step(walk, chain) {
        Ok(more) => i64::from(!more),
        Err(refusal) => {
            walk.outcome = REFUSED + u64::from(refusal.0);
            1
        }
    }
}

#[inline(always)]
fn step(walk: &mut Walk, chain: *mut Name) -> Result<bool, Refusal> {
    let dentry = walk.dentry;
    if dentry == walk.root {
        let (mount, above) = (walk.mount, walk.parent);
        if above == mount {
            walk.outcome = ROOT;
            return Ok(false);
        }
        walk.dentry = walk.point;
        enter(walk, above)?;
        return Ok(true);
    }
    let (parent, name) = entry(dentry)?;
    if dentry == parent {
        walk.outcome = if walk.mount == 0 { ROOT } else { NOWHERE };
        return Ok(false);
    }
    let depth = opaque(walk.depth);
    if depth >= PATH_STEPS as u64 {
        return Err(Refusal::PATH_TOO_LONG);
    }
    // SAFETY: below the length of the chain.
    let place = unsafe { &mut *chain.add(depth as usize) };
    place.address = name;
    place.length = 0;
    walk.depth = depth + 1;
    walk.dentry = parent;
    Ok(true)
}

/// Writes the name of the outermost entry that is not written yet. Returns 1 to end the loop.
unsafe extern "C" fn write_name(_: u32, slot: *const *mut Scratch) -> i64 {
    // SAFETY: the context that `repeat` passes on.
    let slot = unsafe { *slot };
    // SAFETY: the slot that `run` was given.
    let walk = unsafe { &mut (*slot).walk };
    // At depth 0 this wraps around and ends the loop.
    let index = opaque(walk.depth.wrapping_sub(1));
    if index >= PATH_STEPS as u64 {
        return 1;
    }
    // SAFETY: below the length of the chain.
    let name = unsafe { &*(&raw const (*slot).chain).cast::<Name>().add(index as usize) };
    let end = opaque(walk.end);
    if end > TEXT_BYTES as u64 - 1 {
        walk.outcome = REFUSED + u64::from(Refusal::PATH_TOO_LONG.0);
        return 1;
    }
    // SAFETY: the text is more than NAME_BYTES longer than TEXT_BYTES.
    let target = unsafe { (&raw mut (*slot).text).cast::<u8>().add(end as usize) };
    // SAFETY: as above.
    unsafe { *target = b'/' };
    // With the slash.
    let length = if name.length == 0 {
        // SAFETY: as above.
        let copied =
            unsafe { bpf_probe_read_kernel_str(target.add(1).cast(), NAME_BYTES, name.address as *const c_void) };
        if copied < 2 {
            walk.outcome = REFUSED + u64::from(Refusal::READ_KERNEL.0);
            return 1;
        }
        // The length counts the NUL, which the next name's slash overwrites.
        copied as u64
    } else {
        // SAFETY: as above, and a short name is shorter than NAME_BYTES.
        unsafe {
            write_word(target.add(1), name.short[0]);
            write_word(target.add(9), name.short[1]);
            write_word(target.add(17), name.short[2]);
            write_word(target.add(25), name.short[3]);
        }
        1 + name.length
    };
    walk.end = end + length;
    if walk.end - walk.start > PATH_BYTES as u64 {
        walk.outcome = REFUSED + u64::from(Refusal::PATH_TOO_LONG.0);
        return 1;
    }
    walk.depth = index;
    0
}

/// Eight bytes, wherever they go. Rust has no unaligned store on this target, but the instruction set has.
#[inline(always)]
unsafe fn write_word(target: *mut u8, word: u64) {
    // SAFETY: the caller gives a place for eight bytes.
    unsafe { asm!("*(u64 *)({target} + 0) = {word}", target = in(reg) target, word = in(reg) word, options(nostack)) };
}
