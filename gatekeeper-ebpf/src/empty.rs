//! Programs that do nothing, on the hooks of the real ones: what `cargo xtask bench` compares those with.
//!
//! The names are those of `gatekeeper_common::names::PROGRAMS`, so both sets are loaded by the same list. No build of
//! gatekeeper has these in it.
#![no_std]
#![no_main]

/// Loaded like the real ones.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

macro_rules! empty {
    ($($section:literal $name:ident,)+) => {$(
        #[unsafe(no_mangle)]
        #[unsafe(link_section = $section)]
        extern "C" fn $name(_: *mut core::ffi::c_void) -> i64 {
            0
        }
    )+};
}

empty! {
    "tp_btf/sched_process_exit" task_exit,
    "lsm/bprm_committed_creds" bprm_committed_creds,
    "lsm/bprm_check_security" bprm_check_security,
    "lsm/file_open" file_open,
    "lsm/path_truncate" path_truncate,
    "lsm/path_chmod" path_chmod,
    "lsm/path_chown" path_chown,
    "lsm/path_mknod" path_mknod,
    "lsm/path_mkdir" path_mkdir,
    "lsm/path_symlink" path_symlink,
    "lsm/path_link" path_link,
    "lsm/path_unlink" path_unlink,
    "lsm/path_rmdir" path_rmdir,
    "lsm/path_rename" path_rename,
    "lsm/inode_setxattr" inode_setxattr,
    "lsm/inode_removexattr" inode_removexattr,
    "lsm/inode_set_acl" inode_set_acl,
    "lsm/inode_remove_acl" inode_remove_acl,
    "lsm/socket_bind" socket_bind,
    "lsm/socket_listen" socket_listen,
    "lsm/socket_connect" socket_connect,
    "lsm/bprm_creds_for_exec" bprm_creds_for_exec,
}

/// A loop without an end: the verifier refuses any program in which a panic can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
