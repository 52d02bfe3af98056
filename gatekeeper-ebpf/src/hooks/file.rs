//! Writing to files: opening one for writing, and changing its size, permissions, owner or attributes.
//!
//! Writes through a descriptor are not looked at: the open was. That includes `ftruncate`.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use gatekeeper_common::{
    ActionKind, Object, Refusal,
    limits::{TEXT_BYTES, XATTR_NAME_BYTES},
};

use super::object::{self, Binding};
use crate::{
    atomic::opaque,
    gate::{self, Match},
    layout::offset,
    path::View,
    read::Typed,
    scratch::Scratch,
    task::Current,
};

/// `include/uapi/asm-generic/fcntl.h`.
const O_WRONLY: u32 = 0o1;
const O_RDWR: u32 = 0o2;
const O_CREAT: u32 = 0o100;
const O_TRUNC: u32 = 0o1000;
/// `__O_TMPFILE`: with O_DIRECTORY, O_TMPFILE.
const O_TMPFILE: u32 = 0o20_000_000;
/// `include/linux/fs.h`.
const FMODE_CREATED: u32 = 0x10_0000;
const FMODE_NOACCOUNT: u32 = 0x2000_0000;
/// `truncate`, `truncate64` on i386 and `truncate` on i386.
const TRUNCATE_CALLS: [i64; 3] = [76, 193, 92];

lsm! {
    /// `int file_open(struct file *file)`
    fn file_open(ctx) {
        let earlier: i64 = ctx.arg(1);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        let file = Typed::new(ctx.arg(0));
        let flags: u32 = file.field(offset!(file_flags));
        if flags & (O_WRONLY | O_RDWR | O_TRUNC | O_CREAT) == 0 {
            return 0;
        }
        gate::decide(ActionKind::OPEN, |scope, slot| {
            let mode: u32 = file.field(offset!(file_mode));
            // A created file was judged when its name was (`path_mknod`): a hold here would make O_EXCL fail afterwards. One
            // without a name is another one each time the call runs, so no verdict would ever fit it; giving it a name
            // is judged (`path_link`). A file system's own open of a lower layer follows an open by the same call that
            // was judged; user space cannot set that mode.
            if mode & (FMODE_CREATED | FMODE_NOACCOUNT) != 0
                || flags & O_TMPFILE != 0
                || flags & (O_WRONLY | O_RDWR | O_TRUNC) == 0
            {
                return Ok(Match::No);
            }
            let path = file.inner(offset!(file_path));
            let (mount, dentry) = (path.pointer(offset!(path_mnt)), path.pointer(offset!(path_dentry)));
            let (matched, view) = object::path(slot, scope.agent, ActionKind::OPEN, mount, dentry)?;
            if matched == Match::No || view == View::Internal {
                return Ok(Match::No);
            }
            let action = Scratch::action(slot);
            let inode = file.pointer(offset!(file_inode));
            // SAFETY: a claimed slot.
            unsafe {
                (*action).detail = u64::from(flags);
                object::identify(&raw mut (*action).object, inode, Binding::Identity);
            }
            Ok(Match::Maybe)
        })
    }
}

/// One path and one number.
#[inline(always)]
fn change(kind: ActionKind, path: Typed, detail: u64) -> i64 {
    gate::decide(kind, |scope, slot| {
        let (mount, dentry) = (path.pointer(offset!(path_mnt)), path.pointer(offset!(path_dentry)));
        let (matched, view) = object::path(slot, scope.agent, kind, mount, dentry)?;
        if matched == Match::No || view == View::Internal {
            return Ok(Match::No);
        }
        let action = Scratch::action(slot);
        // SAFETY: a claimed slot.
        unsafe {
            (*action).detail = detail;
            object::identify(&raw mut (*action).object, object::inode_of(dentry), Binding::Identity);
        }
        Ok(Match::Maybe)
    })
}

lsm! {
    /// `int path_truncate(const struct path *path)`. Up to 6.1 also called for `ftruncate` and `O_TRUNC`, whose open was
    /// judged.
    fn path_truncate(ctx) {
        let earlier: i64 = ctx.arg(1);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        let number = Current::new().registers().number();
        if !TRUNCATE_CALLS.contains(&number) {
            return 0;
        }
        change(ActionKind::TRUNCATE, Typed::new(ctx.arg(0)), 0)
    }
}

lsm! {
    /// `int path_chmod(const struct path *path, umode_t mode)`
    fn path_chmod(ctx) {
        let earlier: i64 = ctx.arg(2);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        change(ActionKind::CHMOD, Typed::new(ctx.arg(0)), ctx.arg::<u64>(1) & 0xffff)
    }
}

lsm! {
    /// `int path_chown(const struct path *path, kuid_t uid, kgid_t gid)`
    fn path_chown(ctx) {
        let earlier: i64 = ctx.arg(3);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        let uid: u64 = ctx.arg::<u64>(1) & 0xffff_ffff;
        let gid: u64 = ctx.arg::<u64>(2) & 0xffff_ffff;
        change(ActionKind::CHOWN, Typed::new(ctx.arg(0)), uid << 32 | gid)
    }
}

/// A directory entry without a mount, and the name of an attribute.
#[inline(always)]
fn attribute(dentry: Typed, name: u64) -> i64 {
    gate::decide(ActionKind::XATTR, |_, slot| {
        if Current::new().is_filesystem_at_work() {
            return Ok(Match::No);
        }
        object::path_in_filesystem(slot, dentry)?;
        let action = Scratch::action(slot);
        // SAFETY: a claimed slot; the object lies in it.
        let object: *mut Object = unsafe { &raw mut (*action).object };
        object::identify(object, object::inode_of(dentry), Binding::Identity);
        // SAFETY: a claimed slot.
        let walk = unsafe { &mut (*slot).walk };
        let end = opaque(walk.end);
        if end > TEXT_BYTES as u64 {
            return Err(Refusal::PATH_TOO_LONG);
        }
        // SAFETY: the text is longer than TEXT_BYTES by more than an attribute's name.
        let length = unsafe {
            let target = (&raw mut (*slot).text).cast::<u8>().add(end as usize);
            bpf_probe_read_kernel_str(target.cast(), XATTR_NAME_BYTES as u32, name as *const c_void)
        };
        if length < 1 {
            return Err(Refusal::READ_KERNEL);
        }
        walk.end = end + length as u64 - 1;
        // SAFETY: a claimed slot.
        unsafe { (*action).name_len = length as u32 - 1 };
        Ok(Match::Maybe)
    })
}

lsm! {
    /// `int inode_setxattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name, const void *value, size_t size,
    /// int flags)`. On 6.1 this is also the way of access control lists.
    fn inode_setxattr(ctx) {
        let earlier: i64 = ctx.arg(6);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        attribute(Typed::new(ctx.arg(1)), ctx.arg::<u64>(2))
    }
}

lsm! {
    /// `int inode_removexattr(struct mnt_idmap *idmap, struct dentry *dentry, const char *name)`
    fn inode_removexattr(ctx) {
        let earlier: i64 = ctx.arg(3);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        attribute(Typed::new(ctx.arg(1)), ctx.arg::<u64>(2))
    }
}

lsm! {
    /// `int inode_set_acl(struct mnt_idmap *idmap, struct dentry *dentry, const char *acl_name, struct posix_acl *kacl)`,
    /// since 6.2.
    fn inode_set_acl(ctx) {
        let earlier: i64 = ctx.arg(4);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        attribute(Typed::new(ctx.arg(1)), ctx.arg::<u64>(2))
    }
}

lsm! {
    /// `int inode_remove_acl(struct mnt_idmap *idmap, struct dentry *dentry, const char *acl_name)`, since 6.2.
    fn inode_remove_acl(ctx) {
        let earlier: i64 = ctx.arg(3);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        attribute(Typed::new(ctx.arg(1)), ctx.arg::<u64>(2))
    }
}
