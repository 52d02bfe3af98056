//! Running programs.
//!
//! `bprm_creds_for_exec` runs once per exec, before anything irreversible: it is where the program waits. A script's
//! interpreter is known only later, in `bprm_check_security`, which can wait too; because that runs the whole exec
//! again, an allowed program's verdict stays until `bprm_committed_creds`. There the kernel's own copy of the arguments
//! is on the new stack, out of reach of whoever shared the caller's memory: it must be what was approved, or the process
//! is killed before its first instruction.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_probe_read_kernel_str, bpf_send_signal};
use gatekeeper_common::{
    ACTION_INTERPRETER, ActionKind, ApprovedExec, Effect, Refusal, VerdictKey,
    limits::{PATH_BYTES, STAGES, TEXT_BYTES},
    sip::Digest,
};

use super::object::{self, Binding};
use crate::{
    atomic::opaque,
    digest, emit,
    gate::{self, Match},
    layout::offset,
    maps::{self, EXECS, VERDICTS},
    read::Typed,
    scope::{self, Scope},
    scratch::{self, Scratch},
    task::Current,
    user_args,
};

const SIGKILL: u32 = 9;

lsm! {
    /// `int bprm_creds_for_exec(struct linux_binprm *bprm)`
    fn bprm_creds_for_exec(ctx) {
        let earlier: i64 = ctx.arg(1);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        let Some(scope) = scope::current() else {
            return 0;
        };
        let bprm = Typed::new(ctx.arg(0));
        let current = Current::new();
        let none = Digest { low: 0, high: 0 };
        let fresh = ApprovedExec {
            hold: 0,
            task: current.key(),
            tail: none,
            first: none,
            tail_len: 0,
            first_len: 0,
            argc: 0,
            envc: 0,
            stages: 0,
            stage: 0,
        };
        let began = EXECS.insert(current.address(), fresh, 0);
        gate::decide_stage(
            scope,
            ActionKind::EXEC,
            0,
            |scope, slot| {
                if began.is_err() {
                    return Err(Refusal::EXECS_FULL);
                }
                describe(scope, slot, bprm, 0)
            },
            |slot, hold| approve(scope, slot, 0, hold),
        )
    }
}

lsm! {
    /// `int bprm_check_security(struct linux_binprm *bprm)`: once for the program itself, then for each interpreter.
    fn bprm_check_security(ctx) {
        let earlier: i64 = ctx.arg(1);
        if earlier != 0 {
            return gate::bounded(earlier);
        }
        let Some(scope) = scope::current() else {
            return 0;
        };
        let bprm = Typed::new(ctx.arg(0));
        let stage = next_stage(bprm);
        if stage == 0 {
            return 0;
        }
        gate::decide_stage(
            scope,
            ActionKind::EXEC,
            stage,
            |scope, slot| {
                if stage >= STAGES {
                    return Err(Refusal::INTERPRETERS);
                }
                let matched = describe(scope, slot, bprm, ACTION_INTERPRETER)?;
                if matched == Match::Maybe && judged_with_script(slot, stage) {
                    return Ok(Match::No);
                }
                Ok(matched)
            },
            |slot, hold| approve(scope, slot, stage, hold),
        )
    }
}

/// Which interpreter of the chain this is: 0 for the program itself. Counted, because nothing in the kernel says it.
#[inline(always)]
fn next_stage(bprm: Typed) -> u16 {
    // `load_script` and binfmt_misc give the program another `interp`, nothing else does.
    if bprm.field::<u64>(offset!(bprm_filename)) == bprm.field::<u64>(offset!(bprm_interp)) {
        return 0;
    }
    let Some(exec) = EXECS.get_ptr_mut(Current::new().address()) else {
        // The task became an agent's in the middle of this exec.
        return 1;
    };
    // SAFETY: a map entry that only this task's own runs write.
    unsafe {
        (*exec).stage += 1;
        if (*exec).stage >= STAGES as u32 { STAGES } else { (*exec).stage as u16 }
    }
}

/// Whether the verdict on the script named this very interpreter.
#[inline(always)]
fn judged_with_script(slot: *mut Scratch, stage: u16) -> bool {
    if stage != 1 {
        return false;
    }
    let current = Current::new();
    // SAFETY: a map entry that only this task's own runs write.
    let approved = unsafe { EXECS.get(current.address()) }.is_some_and(|exec| exec.stages & 1 != 0);
    // SAFETY: a claimed slot; the verdict is only compared.
    approved
        && unsafe {
            VERDICTS.get(VerdictKey { task: current.key(), stage: 0 }).is_some_and(|verdict| {
                let object = &(*Scratch::action(slot)).object;
                verdict.effect.0 == Effect::ALLOW.0
                    && verdict.interpreter_ino != 0
                    && verdict.interpreter_ino == object.ino
                    && verdict.interpreter_dev == object.dev
            })
        }
}

/// Writes the program, its arguments and what it would start with.
#[inline(always)]
fn describe(scope: Scope, slot: *mut Scratch, bprm: Typed, flags: u16) -> Result<Match, Refusal> {
    let file = bprm.pointer(offset!(bprm_file));
    let path = file.inner(offset!(file_path));
    let (mount, dentry) = (path.pointer(offset!(path_mnt)), path.pointer(offset!(path_dentry)));
    let (matched, _) = object::path(slot, scope.agent, ActionKind::EXEC, mount, dentry)?;
    if matched == Match::No {
        return Ok(Match::No);
    }
    let action = Scratch::action(slot);
    let current = Current::new();
    let inode = file.pointer(offset!(file_inode));
    let cwd = current.pointer(offset!(task_fs)).inner(offset!(fs_pwd)).pointer(offset!(path_dentry));
    let namespace = current.pointer(offset!(task_nsproxy)).pointer(offset!(nsproxy_mnt));
    // SAFETY: a claimed slot.
    unsafe {
        (*action).flags |= flags;
        object::identify(&raw mut (*action).object, inode, Binding::Content);
        object::identify(&raw mut (*action).other, object::inode_of(cwd), Binding::Identity);
        (*action).detail = u64::from(namespace.field::<u32>(offset!(mnt_ns_inum)));
        (*action).name_len = append_called(slot, bprm)?;
        let vectors = user_args::vectors(current.registers())?;
        let arguments = user_args::append_arguments(slot, vectors)?;
        let environment = user_args::append_environment(slot, vectors)?;
        (*action).args_len = arguments.bytes;
        (*action).argc = arguments.strings;
        (*action).env_len = environment.bytes;
        (*action).envc = environment.strings;
        // Where the first argument ends; see `approve`.
        (*slot).copy.first_len = u64::from(arguments.first);
    }
    Ok(Match::Maybe)
}

/// Appends the program's name as the caller gave it.
#[inline(always)]
fn append_called(slot: *mut Scratch, bprm: Typed) -> Result<u32, Refusal> {
    let name: u64 = bprm.field(offset!(bprm_filename));
    // SAFETY: a claimed slot.
    let walk = unsafe { &mut (*slot).walk };
    let end = opaque(walk.end);
    if end > TEXT_BYTES as u64 {
        return Err(Refusal::PATH_TOO_LONG);
    }
    // SAFETY: the text is as much longer than TEXT_BYTES as one path is long.
    let length = unsafe {
        let target = (&raw mut (*slot).text).cast::<u8>().add(end as usize);
        bpf_probe_read_kernel_str(target.cast(), PATH_BYTES as u32 + 1, name as *const c_void)
    };
    if length < 1 {
        return Err(Refusal::READ_KERNEL);
    }
    walk.end = end + length as u64 - 1;
    Ok(length as u32 - 1)
}

/// Notes what the kernel's own copy of the arguments must be.
#[inline(always)]
fn approve(scope: Scope, slot: *mut Scratch, stage: u16, hold: u64) -> Result<(), Refusal> {
    let Some(exec) = EXECS.get_ptr_mut(Current::new().address()) else {
        return Err(Refusal::EXECS_FULL);
    };
    // SAFETY: a claimed slot, a valid map entry, and a map entry that only this task's own runs write.
    unsafe {
        let action = &*Scratch::action(slot);
        let key = (*scope.control).key;
        let start = u64::from(action.path_len) + u64::from(action.name_len);
        let first_len = (*slot).copy.first_len;
        let tail_len = u64::from(action.args_len) + u64::from(action.env_len) - first_len;
        (*exec).first = digest::of_text(slot, key, start, first_len)?;
        (*exec).tail = digest::of_text(slot, key, start + first_len, tail_len)?;
        (*exec).first_len = first_len as u32;
        (*exec).tail_len = tail_len as u32;
        (*exec).argc = action.argc;
        (*exec).envc = action.envc;
        (*exec).stages |= 1 << (stage & 31);
        (*exec).hold = hold;
    }
    Ok(())
}

lsm! {
    /// `void bprm_committed_creds(const struct linux_binprm *bprm)`: the new memory is in place, nothing of it has run.
    fn bprm_committed_creds(ctx) {
        let Some(scope) = scope::current() else {
            return 0;
        };
        let bprm = Typed::new(ctx.arg(0));
        let current = Current::new();
        // SAFETY: copied at once; only this task's own runs write it.
        let Some(exec) = (unsafe { EXECS.get(current.address()) }) else {
            return 0;
        };
        let exec = *exec;
        let _ = EXECS.remove(current.address());
        if exec.stages == 0 {
            return 0;
        }
        forget_verdicts(&exec);
        let slot = match scratch::claim(current.address()) {
            Ok(slot) => slot,
            Err(refusal) => {
                kill(refusal, &exec);
                return 0;
            }
        };
        let result = verify(scope, slot, bprm, &exec);
        scratch::release(slot);
        if let Err(refusal) = result {
            kill(refusal, &exec);
        }
        0
    }
}

/// Consumes the verdicts that let this exec pass.
#[inline(always)]
pub(super) fn forget_verdicts(exec: &ApprovedExec) {
    let mut stage = 0;
    while stage < STAGES {
        if exec.stages >> stage & 1 != 0 {
            let _ = VERDICTS.remove(VerdictKey { task: exec.task, stage: stage as u64 });
        }
        stage += 1;
    }
}

/// Ends a process whose arguments are not what was approved. It has not run an instruction of the new program.
#[inline(always)]
fn kill(refusal: Refusal, exec: &ApprovedExec) {
    // SAFETY: no preconditions.
    unsafe { bpf_send_signal(SIGKILL) };
    emit::about_exec(refusal, exec);
    maps::count(gatekeeper_common::Counter(gatekeeper_common::Counter::REFUSALS.0 + refusal.0 as u32));
}

#[inline(always)]
fn verify(scope: Scope, slot: *mut Scratch, bprm: Typed, exec: &ApprovedExec) -> Result<(), Refusal> {
    let argc: u32 = bprm.field(offset!(bprm_argc));
    let envc: u32 = bprm.field(offset!(bprm_envc));
    let stack: u64 = bprm.field(offset!(bprm_p));
    let filename: u64 = bprm.field(offset!(bprm_filename));
    let interp: u64 = bprm.field(offset!(bprm_interp));
    // SAFETY: a valid map entry.
    let key = unsafe { (*scope.control).key };
    // A script's first argument was replaced by interpreter, option and script.
    let replaced = argc.wrapping_sub(exec.argc - 1);
    if envc != exec.envc || replaced == 0 || replaced > 64 {
        return Err(Refusal::ARGS_CHANGED);
    }
    let tail = if filename == interp {
        if replaced != 1 {
            return Err(Refusal::ARGS_CHANGED);
        }
        user_args::read_stack(slot, stack, exec.first_len)?;
        let found = digest::of_text(slot, key, 0, u64::from(exec.first_len))?;
        if found.low != exec.first.low || found.high != exec.first.high {
            return Err(Refusal::ARGS_CHANGED);
        }
        stack + u64::from(exec.first_len)
    } else {
        user_args::skip_on_stack(slot, stack, u64::from(replaced))?
    };
    user_args::read_stack(slot, tail, exec.tail_len)?;
    let found = digest::of_text(slot, key, 0, u64::from(exec.tail_len))?;
    if found.low != exec.tail.low || found.high != exec.tail.high {
        return Err(Refusal::ARGS_CHANGED);
    }
    Ok(())
}
