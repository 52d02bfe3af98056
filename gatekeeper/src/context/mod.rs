//! Who asked: what surrounds a held action, for the people who decide and for the log.
//!
//! All of it comes from `/proc` and from files that an agent may control, so every size is bounded, nothing but regular
//! files on local file systems is read, and everything happens on threads of its own with a deadline: whatever an agent
//! does to its memory or its mounts, the daemon goes on without the part that cannot be had. What is missing is listed
//! in [`Context::gaps`]. No verdict is bound to any of this.

mod file;
mod gatherer;
mod process;
mod surroundings;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use self::{file::Program, process::Process};
pub use self::{
    gatherer::{DEADLINE, Gatherer, Job},
    process::inside_agent,
};
use crate::{
    action::{Action, ActionKind, Object, Target, Task},
    broker::Interpreter,
    request::{Ancestor, Context},
    text::Text,
};

/// Deepest ancestry that is followed.
const ANCESTORS: usize = 64;

/// What the daemon knows about the agent by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// What the agent was started for.
    pub intent: Option<String>,
    /// Labels given at its start.
    pub labels: BTreeMap<String, String>,
}

/// A context that is being gathered, visible to others at every moment, so that a deadline finds what is there already.
#[derive(Debug, Default)]
struct Gathering {
    context: Mutex<Context>,
    /// Nobody waits for it any more.
    abandoned: AtomicBool,
}

impl Gathering {
    fn add(&self, add: impl FnOnce(&mut Context)) {
        add(&mut self.context.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn gap(&self, gap: impl Into<String>) {
        let gap = gap.into();
        self.add(|context| context.gaps.push(gap));
    }

    /// What is there so far.
    fn so_far(&self) -> Context {
        self.context.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Relaxed)
    }
}

/// Finds out what surrounds an action, on this thread. It can block for as long as an agent likes: [`Gatherer`] keeps
/// that away from the daemon.
pub fn gather(task: &Task, action: &Action, hints: &Hints) -> Context {
    let gathering = Gathering::default();
    gather_into(&gathering, task, action, hints);
    gathering.so_far()
}

fn gather_into(gathering: &Gathering, task: &Task, action: &Action, hints: &Hints) {
    gathering.add(|context| {
        context.intent.clone_from(&hints.intent);
        context.labels.clone_from(&hints.labels);
        if let Target::Program { env, .. } = &action.target {
            context.env = surroundings::interesting(env);
        }
    });
    match surroundings::user_names(action.uid, task.login_uid) {
        Ok((user, login_user)) => gathering.add(|context| {
            context.user = user;
            context.login_user = login_user;
        }),
        Err(error) => gathering.gap(format!("user names: /etc/passwd: {error}")),
    }
    let process = match Process::open(task) {
        Ok(process) => process,
        Err(error) => {
            gathering.gap(format!("the task: {error}"));
            return;
        }
    };
    describe_process(gathering, &process, action);
    describe_ancestry(gathering, &process);
    if action.kind == ActionKind::Exec {
        describe_program(gathering, &process, action);
    }
    if let Err(error) = process.stat() {
        gathering.gap(format!("the task ended while it was examined: {error}"));
    }
}

fn describe_process(gathering: &Gathering, process: &Process, action: &Action) {
    let attempt = |what: &str, result: io::Result<()>| {
        if let Err(error) = result {
            gathering.gap(format!("{what}: {error}"));
        }
    };
    let exe = process.link("exe").map(|exe| gathering.add(|context| context.exe = Some(exe)));
    attempt("executable", exe);
    let args = process.args(process::ARGS_BYTES).map(|(args, cut)| {
        gathering.add(|context| context.args = args);
        if cut {
            gathering.gap("arguments: only the first were read");
        }
    });
    attempt("arguments", args);
    let cwd = process.link("cwd").map(|cwd| gathering.add(|context| context.cwd = Some(cwd)));
    attempt("working directory", cwd);
    if action.kind != ActionKind::Exec {
        let env = process.environment().map(|(env, cut)| {
            let env = surroundings::interesting(&env);
            gathering.add(|context| context.env = env);
            if cut {
                gathering.gap("environment: only the first entries were read");
            }
        });
        attempt("environment", env);
    }
    let cgroup = process.cgroup().map(|cgroup| {
        let unit = surroundings::unit(cgroup.bytes());
        let container = surroundings::container(cgroup.bytes());
        gathering.add(|context| {
            context.unit = unit;
            context.container = container;
            context.cgroup = Some(cgroup);
        });
    });
    attempt("cgroup", cgroup);
    let terminal = process.stat().map(|stat| {
        let terminal = surroundings::terminal(stat.terminal);
        gathering.add(|context| context.terminal = terminal);
    });
    attempt("terminal", terminal);
}

fn describe_ancestry(gathering: &Gathering, process: &Process) {
    let Ok(mut child) = process.stat() else { return };
    for _ in 0..ANCESTORS {
        if child.parent == 0 {
            return;
        }
        let parent = match Process::open_ancestor(child.parent, &child) {
            Ok(parent) => parent,
            Err(error) => {
                gathering.gap(format!("ancestry: process {}: {error}", child.parent));
                return;
            }
        };
        let (process, stat) = parent;
        let exe = process.link("exe").ok();
        let args = process.args(process::ANCESTOR_ARGS_BYTES).map(|(args, _)| args).unwrap_or_default();
        gathering.add(|context| context.ancestry.push(Ancestor { pid: child.parent, exe, args }));
        child = stat;
    }
    gathering.gap("ancestry: only the nearest were read");
}

fn describe_program(gathering: &Gathering, process: &Process, action: &Action) {
    let program = match open_program(process, action) {
        Ok(program) => program,
        Err(gap) => {
            gathering.gap(gap);
            return;
        }
    };
    match program.script() {
        Ok(Some(script)) => gathering.add(|context| {
            context.interpreter = Some(script.interpreter);
            context.script = Some(script.preview);
        }),
        Ok(None) => {}
        Err(error) => gathering.gap(format!("first lines of the program: {error}")),
    }
    match program.sha256(&|| gathering.is_abandoned()) {
        Ok(sha256) => gathering.add(|context| context.sha256 = Some(sha256)),
        Err(error) => gathering.gap(format!("digest of the program: {error}")),
    }
}

/// Opens the file that would run, if it still is the one that the kernel side saw. The error is a gap.
fn open_program(process: &Process, action: &Action) -> Result<Program, String> {
    let Target::Program { path, .. } = &action.target else { return Err("the program: not an exec".to_owned()) };
    let object: &Object = action.object.as_ref().ok_or("the program: the kernel side named no file")?;
    let root = process.root().map_err(|error| format!("the program: root directory of the task: {error}"))?;
    Program::open(process, &root, path, object).map_err(|error| format!("the program: {error}"))
}

/// Why a script's interpreter cannot be told. A rule that depends on it must not allow then.
#[derive(Debug, thiserror::Error)]
pub enum InterpreterError {
    /// The task is not what it was.
    #[error("cannot examine the task")]
    Task(#[source] io::Error),
    /// The program cannot be read, or is another by now.
    #[error("{0}")]
    Program(String),
    /// The program cannot be read.
    #[error("cannot read the program's first line")]
    Read(#[source] io::Error),
    /// The interpreter cannot be found in the task's view of the file system.
    #[error("cannot find the interpreter {path}")]
    Find {
        /// As the script's first line names it.
        path: Text,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a script that would run is: SHA-256 of its content in hexadecimal, its interpreter as its first line names it, and
/// the file that this name means to the task now, with size and time of change. `None`: it is no script. Blocks as [`gather`]
/// can; `is_abandoned` ends it early.
///
/// # Errors
///
/// Whether it is a script, what is in it, or what the interpreter is, cannot be told.
pub fn script_of(
    task: &Task,
    action: &Action,
    is_abandoned: &dyn Fn() -> bool,
) -> Result<Option<(String, Text, Object)>, InterpreterError> {
    let process = Process::open(task).map_err(InterpreterError::Task)?;
    let program = open_program(&process, action).map_err(InterpreterError::Program)?;
    let Some(script) = program.script().map_err(InterpreterError::Read)? else { return Ok(None) };
    let path = script.interpreter;
    let file = match process.root().and_then(|root| file::describe(&process, &root, &path)) {
        Ok(file) => file,
        Err(source) => return Err(InterpreterError::Find { path, source }),
    };
    let sha256 = program.sha256(is_abandoned).map_err(InterpreterError::Read)?;
    Ok(Some((sha256, path, file)))
}

/// Which interpreter runs the program of an exec, if it is a script: as its first line names it, and the file that this
/// name means to the task now. Blocks as [`gather`] can.
///
/// # Errors
///
/// Whether it is a script, or what the interpreter is, cannot be told.
pub fn interpreter_of(task: &Task, action: &Action) -> Result<Option<(Text, Interpreter)>, InterpreterError> {
    let process = Process::open(task).map_err(InterpreterError::Task)?;
    let program = open_program(&process, action).map_err(InterpreterError::Program)?;
    let Some(script) = program.script().map_err(InterpreterError::Read)? else { return Ok(None) };
    let path = script.interpreter;
    match process.root().and_then(|root| file::identify(&process, &root, &path)) {
        Ok(interpreter) => Ok(Some((path, interpreter))),
        Err(source) => Err(InterpreterError::Find { path, source }),
    }
}
