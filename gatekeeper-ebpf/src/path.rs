//! Resolved paths, from the directory entry up to the root of the mount tree.
//!
//! `bpf_d_path` will not do: it is allowed in few hooks, and it stops at the caller's own root, so that a chroot could
//! rename everything. This walk looks at the mount tree alone. A concurrent rename can make it see a mixed path; the
//! hook runs again before the action goes on, and a different path is a different digest.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use gatekeeper_common::{
    Refusal,
    limits::{PATH_BYTES, PATH_STEPS, TEXT_BYTES},
};

use crate::{
    atomic::opaque,
    layout::offset,
    read::{self, Typed},
    scratch::{REFUSED, Scratch},
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

/// Entries that are walked by plain loads, in the first mount. What is deeper, or behind a mount point, costs a helper
/// call for each field.
const PLAIN_STEPS: u32 = 24;

/// Appends the path of `dentry` on `vfsmount` to the text. Returns its length and where it begins.
#[inline(always)]
pub(crate) fn append(slot: *mut Scratch, vfsmount: Typed, dentry: Typed) -> Result<(u32, View), Refusal> {
    let mount = vfsmount.address().wrapping_sub(offset!(mount_mnt) as u64);
    let namespace: u64 = read::kernel(mount, offset!(mount_ns))?;
    // SAFETY: a claimed slot.
    let walk = unsafe { &mut (*slot).walk };
    walk.mount = mount;
    walk.root = vfsmount.field(offset!(vfsmount_root));
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
    let (walk, chain) = unsafe { (&mut (*slot).walk, (&raw mut (*slot).chain).cast::<u64>()) };
    let root = walk.root;
    let mut dentry = dentry;
    let mut steps = 0;
    while steps < PLAIN_STEPS {
        let parent = dentry.pointer(offset!(dentry_parent));
        if dentry.address() == root || dentry.address() == parent.address() {
            break;
        }
        // SAFETY: fewer steps than the chain is long.
        unsafe { *chain.add(steps as usize) = dentry.field(offset!(dentry_name)) };
        dentry = parent;
        steps += 1;
    }
    walk.depth = u64::from(steps);
    walk.dentry = dentry.address();
}

/// One step towards the root. Returns 1 to end the loop.
unsafe extern "C" fn climb(_: u32, slot: *const *mut Scratch) -> i64 {
    // SAFETY: the context that `repeat` passes on.
    let slot = unsafe { *slot };
    // SAFETY: the slot that `run` was given.
    let (walk, chain) = unsafe { (&mut (*slot).walk, (&raw mut (*slot).chain).cast::<u64>()) };
    match step(walk, chain) {
        Ok(more) => i64::from(!more),
        Err(refusal) => {
            walk.outcome = REFUSED + u64::from(refusal.0);
            1
        }
    }
}

#[inline(always)]
fn step(walk: &mut crate::scratch::Walk, chain: *mut u64) -> Result<bool, Refusal> {
    let dentry = walk.dentry;
    let parent: u64 = read::kernel(dentry, offset!(dentry_parent))?;
    if dentry == walk.root || dentry == parent {
        if walk.mount == 0 {
            walk.outcome = ROOT;
            return Ok(false);
        }
        if dentry != walk.root {
            walk.outcome = NOWHERE;
            return Ok(false);
        }
        let above: u64 = read::kernel(walk.mount, offset!(mount_parent))?;
        if above == walk.mount {
            walk.outcome = ROOT;
            return Ok(false);
        }
        walk.dentry = read::kernel(walk.mount, offset!(mount_mountpoint))?;
        walk.mount = above;
        walk.root = read::kernel(above, offset!(mount_mnt) + offset!(vfsmount_root))?;
        return Ok(true);
    }
    let depth = opaque(walk.depth);
    if depth >= PATH_STEPS as u64 {
        return Err(Refusal::PATH_TOO_LONG);
    }
    let name: u64 = read::kernel(dentry, offset!(dentry_name))?;
    // SAFETY: below the length of the chain.
    unsafe { *chain.add(depth as usize) = name };
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
    let name = unsafe { *(&raw const (*slot).chain).cast::<u64>().add(index as usize) };
    let end = opaque(walk.end);
    if end > TEXT_BYTES as u64 - 1 {
        walk.outcome = REFUSED + u64::from(Refusal::PATH_TOO_LONG.0);
        return 1;
    }
    // SAFETY: the text is more than NAME_BYTES longer than TEXT_BYTES.
    let length = unsafe {
        let target = (&raw mut (*slot).text).cast::<u8>().add(end as usize);
        *target = b'/';
        bpf_probe_read_kernel_str(target.add(1).cast(), NAME_BYTES, name as *const c_void)
    };
    if length < 2 {
        walk.outcome = REFUSED + u64::from(Refusal::READ_KERNEL.0);
        return 1;
    }
    // The length counts the NUL, which the next name's slash overwrites.
    walk.end = end + length as u64;
    if walk.end - walk.start > PATH_BYTES as u64 {
        walk.outcome = REFUSED + u64::from(Refusal::PATH_TOO_LONG.0);
        return 1;
    }
    walk.depth = index;
    0
}
