//! Names in directories: creating, linking, renaming, removing. All these hooks know the mount, so the path is whole;
//! they run with the parent directory locked, so they read no user memory.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use gatekeeper_common::{
    ActionKind, Refusal,
    limits::{PATH_BYTES, TEXT_BYTES},
};

use super::object::{self, Binding};
use crate::{
    atomic::opaque,
    gate::{self, Match},
    layout::offset,
    path::View,
    read::Typed,
    scope::{self, Scope},
    scratch::Scratch,
};

/// `include/uapi/linux/stat.h`.
const S_IFMT: u64 = 0o170_000;
const S_IFSOCK: u64 = 0o140_000;
const S_IFREG: u64 = 0o100_000;

/// A new or old name in a directory.
#[inline(always)]
fn name(kind: ActionKind, directory: Typed, dentry: Typed, detail: u64, target: u64) -> i64 {
    let Some(scope) = scope::current() else {
        return 0;
    };
    // The name of a socket comes behind its `socket_bind`, in the same system call: each has its own verdict.
    let stage = u16::from(kind.0 == ActionKind::MKNOD.0 && detail & S_IFMT == S_IFSOCK);
    let describe = |scope: Scope, slot| {
        let (mount, parent) = (directory.pointer(offset!(path_mnt)), directory.pointer(offset!(path_dentry)));
        let (matched, view) = object::path(slot, scope.agent, kind, mount, dentry)?;
        if matched == Match::No || view == View::Internal {
            return Ok(Match::No);
        }
        let action = Scratch::action(slot);
        // SAFETY: a claimed slot.
        unsafe {
            (*action).detail = detail;
            object::identify(&raw mut (*action).object, object::inode_of(dentry), Binding::Identity);
            object::identify(&raw mut (*action).other, object::inode_of(parent), Binding::Identity);
            if target != 0 {
                (*action).name_len = append_string(slot, target)?;
            }
        }
        Ok(Match::Maybe)
    };
    gate::decide_stage(scope, kind, stage, describe, |_, _| Ok(()))
}

/// Appends a string of the kernel to the text. Returns its length.
#[inline(always)]
fn append_string(slot: *mut Scratch, string: u64) -> Result<u32, Refusal> {
    // SAFETY: a claimed slot.
    let walk = unsafe { &mut (*slot).walk };
    let end = opaque(walk.end);
    if end > TEXT_BYTES as u64 {
        return Err(Refusal::PATH_TOO_LONG);
    }
    // SAFETY: the text is as much longer than TEXT_BYTES as one path is long.
    let length = unsafe {
        let target = (&raw mut (*slot).text).cast::<u8>().add(end as usize);
        bpf_probe_read_kernel_str(target.cast(), PATH_BYTES as u32 + 1, string as *const c_void)
    };
    if length < 1 {
        return Err(Refusal::READ_KERNEL);
    }
    walk.end = end + length as u64 - 1;
    Ok(length as u32 - 1)
}

lsm! {
    /// `int path_mknod(const struct path *dir, struct dentry *dentry, umode_t mode, unsigned int dev)`. Also called when an
    /// open creates a file, and for the name of a bound Unix socket.
    fn path_mknod(ctx) {
        let earlier: i64 = ctx.arg(4);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        let mode: u64 = ctx.arg::<u64>(2) & 0xffff;
        let regular = mode & S_IFMT == 0 || mode & S_IFMT == S_IFREG;
        if regular {
            name(ActionKind::CREATE, Typed::new(ctx.arg(0)), Typed::new(ctx.arg(1)), mode, 0)
        } else {
            name(ActionKind::MKNOD, Typed::new(ctx.arg(0)), Typed::new(ctx.arg(1)), mode, 0)
        }
    }
}

lsm! {
    /// `int path_mkdir(const struct path *dir, struct dentry *dentry, umode_t mode)`
    fn path_mkdir(ctx) {
        let earlier: i64 = ctx.arg(3);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        name(ActionKind::MKDIR, Typed::new(ctx.arg(0)), Typed::new(ctx.arg(1)), ctx.arg::<u64>(2) & 0xffff, 0)
    }
}

lsm! {
    /// `int path_symlink(const struct path *dir, struct dentry *dentry, const char *old_name)`
    fn path_symlink(ctx) {
        let earlier: i64 = ctx.arg(3);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        name(ActionKind::SYMLINK, Typed::new(ctx.arg(0)), Typed::new(ctx.arg(1)), 0, ctx.arg(2))
    }
}

lsm! {
    /// `int path_unlink(const struct path *dir, struct dentry *dentry)`
    fn path_unlink(ctx) {
        let earlier: i64 = ctx.arg(2);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        name(ActionKind::UNLINK, Typed::new(ctx.arg(0)), Typed::new(ctx.arg(1)), 0, 0)
    }
}

lsm! {
    /// `int path_rmdir(const struct path *dir, struct dentry *dentry)`
    fn path_rmdir(ctx) {
        let earlier: i64 = ctx.arg(2);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        name(ActionKind::RMDIR, Typed::new(ctx.arg(0)), Typed::new(ctx.arg(1)), 0, 0)
    }
}

/// Two names of which one is new.
#[inline(always)]
fn two_names(kind: ActionKind, old: Typed, new_directory: Typed, new: Typed, detail: u64) -> i64 {
    gate::decide(kind, |scope, slot| {
        let mount = new_directory.pointer(offset!(path_mnt));
        let (first, view) = object::path(slot, scope.agent, kind, mount, old)?;
        let (second, _) = object::second_path(slot, scope.agent, kind, mount, new)?;
        if (first == Match::No && second == Match::No) || view == View::Internal {
            return Ok(Match::No);
        }
        let action = Scratch::action(slot);
        // SAFETY: a claimed slot.
        unsafe {
            (*action).detail = detail;
            object::identify(&raw mut (*action).object, object::inode_of(old), Binding::Identity);
            object::identify(&raw mut (*action).other, object::inode_of(new), Binding::Identity);
        }
        Ok(Match::Maybe)
    })
}

lsm! {
    /// `int path_link(struct dentry *old_dentry, const struct path *new_dir, struct dentry *new_dentry)`. A hard link cannot
    /// cross mounts, so the old name is on the new one's mount.
    fn path_link(ctx) {
        let earlier: i64 = ctx.arg(3);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        two_names(ActionKind::LINK, Typed::new(ctx.arg(0)), Typed::new(ctx.arg(1)), Typed::new(ctx.arg(2)), 0)
    }
}

lsm! {
    /// `int path_rename(const struct path *old_dir, struct dentry *old_dentry, const struct path *new_dir, struct dentry
    /// *new_dentry, unsigned int flags)`
    fn path_rename(ctx) {
        let earlier: i64 = ctx.arg(5);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        two_names(ActionKind::RENAME, Typed::new(ctx.arg(1)), Typed::new(ctx.arg(2)), Typed::new(ctx.arg(3)), ctx.arg::<u64>(4) & 0xffff_ffff)
    }
}
