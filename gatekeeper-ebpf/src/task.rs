//! The current task.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_current_task_btf, bpf_task_pt_regs};
use gatekeeper_common::{Refusal, TaskKey};

use crate::{layout::offset, read::Typed};

/// `task_struct.flags`, from `include/linux/sched.h`: same values in 6.1 and 6.12.
const PF_EXITING: u32 = 0x4;
const PF_POSTCOREDUMP: u32 = 0x8;
const PF_IO_WORKER: u32 = 0x10;
const PF_DUMPCORE: u32 = 0x200;
const PF_SIGNALED: u32 = 0x400;
const PF_USER_WORKER: u32 = 0x4000;
const PF_KTHREAD: u32 = 0x20_0000;
const PF_NEVER: u32 =
    PF_EXITING | PF_POSTCOREDUMP | PF_IO_WORKER | PF_DUMPCORE | PF_SIGNALED | PF_USER_WORKER | PF_KTHREAD;
/// `signal_struct.flags`, from `include/linux/sched/signal.h`.
const SIGNAL_GROUP_EXIT: u32 = 0x4;
/// `include/uapi/linux/errno.h`. What x86 puts into the result register while a system call's body runs.
const ENOSYS: i64 = 38;
/// io_uring_setup, io_uring_enter, io_uring_register: the same numbers everywhere.
const IO_URING: core::ops::RangeInclusive<i64> = 425..=427;

/// The current task, through a pointer that the verifier trusts.
#[derive(Clone, Copy)]
pub(crate) struct Current(Typed);

/// The registers of the system call that the current task is in.
#[derive(Clone, Copy)]
pub(crate) struct Registers(Typed);

impl Current {
    #[inline(always)]
    pub(crate) fn new() -> Self {
        // SAFETY: the helper has no preconditions.
        Self(Typed::new(unsafe { bpf_get_current_task_btf() }.cast_const().cast()))
    }

    /// A field of the `task_struct`.
    #[inline(always)]
    pub(crate) fn field<T: Copy>(self, offset: usize) -> T {
        self.0.field(offset)
    }

    /// What a field of the `task_struct` points to.
    #[inline(always)]
    pub(crate) fn pointer(self, offset: usize) -> Typed {
        self.0.pointer(offset)
    }

    #[inline(always)]
    pub(crate) fn address(self) -> u64 {
        self.0.address()
    }

    #[inline(always)]
    pub(crate) fn key(self) -> TaskKey {
        TaskKey { task: self.address(), start_ns: self.field(offset!(task_start)) }
    }

    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.field(offset!(task_tgid))
    }

    #[inline(always)]
    pub(crate) fn registers(self) -> Registers {
        // SAFETY: a trusted task pointer, as the helper wants.
        let registers = unsafe { bpf_task_pt_regs(self.address() as *mut _) };
        Registers(Typed::new(registers as *const c_void))
    }

    /// Whether a file system acts in this task's name: overlayfs copies a file up, or passes a change on to the layer below,
    /// under credentials of its own. The act itself was judged before, by an outer hook of the same system call. Otherwise
    /// only io_uring makes the two differ (personalities), so that is excluded.
    #[inline(always)]
    pub(crate) fn is_filesystem_at_work(self) -> bool {
        let overridden = self.field::<u64>(offset!(task_cred)) != self.field::<u64>(offset!(task_real_cred));
        overridden
            && self.field::<u32>(offset!(task_flags)) & (PF_IO_WORKER | PF_USER_WORKER) == 0
            && !IO_URING.contains(&self.registers().number())
    }

    /// Whether the task can be stopped here and its system call run again: `Ok`, or why not.
    #[inline(always)]
    pub(crate) fn can_be_held(self) -> Result<(), Refusal> {
        if self.field::<u32>(offset!(task_flags)) & PF_NEVER != 0 {
            return Err(Refusal::CONTEXT);
        }
        if self.tgid() == 1 {
            return Err(Refusal::INIT);
        }
        let registers = self.registers();
        let number = registers.number();
        if IO_URING.contains(&number) {
            return Err(Refusal::IO_URING);
        }
        if number < 0 || registers.field::<i64>(offset!(regs_result)) != -ENOSYS {
            return Err(Refusal::CONTEXT);
        }
        let signal = self.pointer(offset!(task_signal));
        let flags: u32 = signal.field(offset!(signal_flags));
        let exec: u64 = signal.field(offset!(signal_group_exec));
        if flags & SIGNAL_GROUP_EXIT != 0 || (exec != 0 && exec != self.address()) {
            return Err(Refusal::CONTEXT);
        }
        Ok(())
    }
}

impl Registers {
    #[inline(always)]
    pub(crate) fn field<T: Copy>(self, offset: usize) -> T {
        self.0.field(offset)
    }

    /// The number of the system call.
    #[inline(always)]
    pub(crate) fn number(self) -> i64 {
        self.field(offset!(regs_number))
    }
}
