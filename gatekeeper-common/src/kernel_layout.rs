//! Where the fields of kernel structures lie.

macro_rules! kernel_layout {
    ($($(#[doc = $doc:literal])* $field:ident = $structure:literal . $path:literal $(| $other:literal)*;)+) => {
        /// Byte offsets of kernel structure fields. They differ between kernels, so the daemon reads them from the
        /// running kernel's BTF and sets them as a read-only global before it loads the programs: one build serves
        /// every supported kernel.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct KernelLayout {
            $(
                #[doc = concat!("Offset of `", $structure, ".", $path, "`.")]
                $(#[doc = $doc])*
                pub $field: u32,
            )+
        }

        impl KernelLayout {
            /// All fields at zero.
            pub const ZERO: Self = Self { $($field: 0),+ };

            /// How to find each offset: the structure, and the paths of member names that may lead to it, the first that
            /// the kernel has counts; with where to write the offset.
            pub fn fields() -> impl Iterator<Item = (&'static str, &'static [&'static str], fn(&mut Self) -> &mut u32)> {
                [
                    $(($structure, [$path $(, $other)*].as_slice(), (|layout: &mut Self| &mut layout.$field) as fn(&mut Self) -> &mut u32)),+
                ]
                .into_iter()
            }
        }
    };
}

kernel_layout! {
    task_flags = "task_struct"."flags";
    task_tgid = "task_struct"."tgid";
    task_start = "task_struct"."start_boottime";
    task_signal = "task_struct"."signal";
    task_real_parent = "task_struct"."real_parent";
    task_cred = "task_struct"."cred";
    task_real_cred = "task_struct"."real_cred";
    task_fs = "task_struct"."fs";
    task_nsproxy = "task_struct"."nsproxy";
    task_loginuid = "task_struct"."loginuid";
    task_sessionid = "task_struct"."sessionid";
    signal_flags = "signal_struct"."flags";
    signal_group_exec = "signal_struct"."group_exec_task";
    cred_euid = "cred"."euid";
    cred_egid = "cred"."egid";
    fs_pwd = "fs_struct"."pwd";
    nsproxy_mnt = "nsproxy"."mnt_ns";
    mnt_ns_inum = "mnt_namespace"."ns.inum";
    mnt_ns_user = "mnt_namespace"."user_ns";
    user_ns_level = "user_namespace"."level";
    file_flags = "file"."f_flags";
    file_mode = "file"."f_mode";
    file_path = "file"."f_path";
    file_inode = "file"."f_inode";
    path_mnt = "path"."mnt";
    path_dentry = "path"."dentry";
    dentry_parent = "dentry"."d_parent";
    dentry_name = "dentry"."d_name.name";
    dentry_name_len = "dentry"."d_name.len";
    /// Where short names lie.
    dentry_short_name = "dentry"."d_iname" | "d_shortname";
    dentry_inode = "dentry"."d_inode";
    inode_mode = "inode"."i_mode";
    inode_uid = "inode"."i_uid";
    inode_sb = "inode"."i_sb";
    inode_ino = "inode"."i_ino";
    inode_nlink = "inode"."i_nlink";
    inode_size = "inode"."i_size";
    inode_generation = "inode"."i_generation";
    /// Seconds.
    inode_ctime_sec = "inode"."i_ctime_sec" | "__i_ctime.tv_sec" | "i_ctime.tv_sec";
    /// Nanoseconds: 4 bytes or, up to 6.10, the low half of 8.
    inode_ctime_nsec = "inode"."i_ctime_nsec" | "__i_ctime.tv_nsec" | "i_ctime.tv_nsec";
    sb_dev = "super_block"."s_dev";
    vfsmount_root = "vfsmount"."mnt_root";
    mount_mnt = "mount"."mnt";
    mount_parent = "mount"."mnt_parent";
    mount_mountpoint = "mount"."mnt_mountpoint";
    mount_ns = "mount"."mnt_ns";
    bprm_file = "linux_binprm"."file";
    bprm_p = "linux_binprm"."p";
    bprm_argc = "linux_binprm"."argc";
    bprm_envc = "linux_binprm"."envc";
    bprm_filename = "linux_binprm"."filename";
    bprm_interp = "linux_binprm"."interp";
    socket_file = "socket"."file";
    socket_sk = "socket"."sk";
    sock_family = "sock"."__sk_common.skc_family";
    sock_port = "sock"."__sk_common.skc_num";
    sock_address = "sock"."__sk_common.skc_rcv_saddr";
    sock_address6 = "sock"."__sk_common.skc_v6_rcv_saddr";
    unix_address = "unix_sock"."addr";
    unix_address_len = "unix_address"."len";
    unix_address_name = "unix_address"."name";
    regs_number = "pt_regs"."orig_ax";
    regs_result = "pt_regs"."ax";
    regs_argument1 = "pt_regs"."di";
    regs_argument2 = "pt_regs"."si";
    regs_argument3 = "pt_regs"."dx";
    regs_argument4 = "pt_regs"."r10";
    regs_ia32_argument1 = "pt_regs"."bx";
    regs_ia32_argument2 = "pt_regs"."cx";
}
