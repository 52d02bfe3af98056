//! Identity of file system objects, and paths into an action.

use gatekeeper_common::{ACTION_FOREIGN_MOUNT, ACTION_PATH_IN_FILESYSTEM, ActionKind, AgentEntry, Object, Refusal};

use crate::{
    gate::Match,
    layout::offset,
    path::{self, View},
    read::Typed,
    scratch::Scratch,
    tables,
};

/// How much of an object an action is bound to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Binding {
    /// Which object.
    Identity,
    /// And its content, as far as size and time of change tell.
    Content,
}

/// Writes the identity of an inode. No inode: the object stays all zero.
#[inline(always)]
pub(super) fn identify(target: *mut Object, inode: Typed, binding: Binding) {
    if inode.is_null() {
        return;
    }
    // SAFETY: the object lies in a claimed slot.
    let object = unsafe { &mut *target };
    object.dev = u64::from(inode.pointer(offset!(inode_sb)).field::<u32>(offset!(sb_dev)));
    object.ino = inode.field(offset!(inode_ino));
    object.generation = inode.field(offset!(inode_generation));
    object.mode = u32::from(inode.field::<u16>(offset!(inode_mode)));
    object.uid = inode.field(offset!(inode_uid));
    object.nlink = inode.field(offset!(inode_nlink));
    if binding == Binding::Content {
        object.size = inode.field(offset!(inode_size));
        let seconds: u64 = inode.field(offset!(inode_ctime_sec));
        let nanoseconds: u32 = inode.field(offset!(inode_ctime_nsec));
        object.ctime_ns = seconds.wrapping_mul(1_000_000_000).wrapping_add(u64::from(nanoseconds));
    }
}

/// The inode of a directory entry; null for a name that does not exist yet.
#[inline(always)]
pub(super) fn inode_of(dentry: Typed) -> Typed {
    dentry.pointer(offset!(dentry_inode))
}

/// Writes the path of `dentry` on `vfsmount` and asks the tables about it.
#[inline(always)]
pub(super) fn path(
    slot: *mut Scratch,
    agent: *const AgentEntry,
    kind: ActionKind,
    vfsmount: Typed,
    dentry: Typed,
) -> Result<(Match, View), Refusal> {
    let (length, view) = path::append(slot, vfsmount, dentry)?;
    let action = Scratch::action(slot);
    // SAFETY: a claimed slot.
    unsafe { (*action).path_len = length };
    let matched = by_view(slot, agent, kind, 0, length, view)?;
    Ok((matched, view))
}

/// Writes the second path of a link or rename and asks the tables about it.
#[inline(always)]
pub(super) fn second_path(
    slot: *mut Scratch,
    agent: *const AgentEntry,
    kind: ActionKind,
    vfsmount: Typed,
    dentry: Typed,
) -> Result<(Match, View), Refusal> {
    let (length, view) = path::append(slot, vfsmount, dentry)?;
    let action = Scratch::action(slot);
    // SAFETY: a claimed slot.
    let start = unsafe {
        (*action).name_len = length;
        (*action).path_len
    };
    let matched = by_view(slot, agent, kind, start, length, view)?;
    Ok((matched, view))
}

#[inline(always)]
fn by_view(
    slot: *mut Scratch,
    agent: *const AgentEntry,
    kind: ActionKind,
    start: u32,
    length: u32,
    view: View,
) -> Result<Match, Refusal> {
    if view != View::Own {
        // SAFETY: a claimed slot.
        unsafe { (*Scratch::action(slot)).flags |= ACTION_FOREIGN_MOUNT };
        return Ok(Match::Maybe);
    }
    Ok(if tables::path_may_match(slot, agent, kind, start, length)? { Match::Maybe } else { Match::No })
}

/// Writes the path of `dentry` below the root of its file system. No table can rule it out.
#[inline(always)]
pub(super) fn path_in_filesystem(slot: *mut Scratch, dentry: Typed) -> Result<(), Refusal> {
    let length = path::append_in_filesystem(slot, dentry)?;
    let action = Scratch::action(slot);
    // SAFETY: a claimed slot.
    unsafe {
        (*action).path_len = length;
        (*action).flags |= ACTION_PATH_IN_FILESYSTEM;
    }
    Ok(())
}
