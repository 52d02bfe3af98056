//! Tasks that end.

use aya_ebpf::{macros::btf_tracepoint, programs::BtfTracePointContext};

use super::exec;
use crate::{hold, maps::EXECS, scope, task::Current};

/// `sched_process_exit(struct task_struct *task)`, run by the task that ends, for every thread. Clears up what the maps
/// know of it, so that nothing is left for a later task at the same address.
#[btf_tracepoint(function = "sched_process_exit")]
fn task_exit(_: BtfTracePointContext) -> i32 {
    if scope::current().is_none() {
        return 0;
    }
    let current = Current::new();
    hold::withdraw(current.key());
    // SAFETY: copied at once; only this task's own runs write it.
    if let Some(exec) = unsafe { EXECS.get(current.address()) } {
        let exec = *exec;
        let _ = EXECS.remove(current.address());
        exec::forget_verdicts(&exec);
    }
    0
}
