//! Processes that act on command: an agent's, or a twin outside.

use std::{
    io::Write as _,
    os::fd::AsFd as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use crate::{
    daemon::{Daemon, process_state},
    program,
    wait::{PATIENCE, readable, wait_until},
};

/// How an act ended: `ok`, or the name of its errno.
pub type Outcome = String;

/// A `probe` that takes one act after another. It is killed when it is dropped.
#[derive(Debug)]
pub struct Agent {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    line: Vec<u8>,
}

impl Agent {
    /// An agent: `gatekeeper run --agent NAME -- probe serve`.
    pub fn start(daemon: &Daemon, name: &str) -> Self {
        let mut command = daemon.command(&["run", "--agent", name, "--"]);
        command.arg(program("probe")).arg("serve");
        Self::spawn(command)
    }

    /// The same program outside of any agent.
    pub fn outside() -> Self {
        let mut command = Command::new(program("probe"));
        command.arg("serve");
        Self::spawn(command)
    }

    /// Runs any command that ends up as `probe serve` in the same process.
    ///
    /// # Panics
    /// If it does not.
    pub fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program is built");
        let (input, output) = (child.stdin.take().expect("it is piped"), child.stdout.take().expect("it is piped"));
        let mut agent = Self { child, input, output, line: Vec::new() };
        assert_eq!(agent.finish(), "ok", "{command:?}");
        agent
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Begins an act: words without spaces, as `probe` lists them.
    pub fn begin(&mut self, act: &[&str]) {
        assert!(act.iter().all(|word| !word.contains([' ', '\n'])), "{act:?}");
        self.input.write_all(format!("{}\n", act.join(" ")).as_bytes()).expect("the agent reads");
    }

    /// Waits until the act that was begun ends.
    ///
    /// # Panics
    /// If it does not, or the agent is gone.
    pub fn finish(&mut self) -> Outcome {
        loop {
            if let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.line.drain(..=end).collect();
                return String::from_utf8_lossy(&line).trim_end().to_owned();
            }
            let state = process_state(self.child.id());
            assert!(readable(self.output.as_fd(), PATIENCE), "the act does not end; the agent's state is {state:?}");
            let mut buffer = [0; 4096];
            let length = rustix::io::read(&self.output, &mut buffer).expect("a pipe can be read");
            assert!(length > 0, "the agent ended: {:?}", self.child.wait());
            self.line.extend_from_slice(&buffer[..length]);
        }
    }

    /// Acts, and waits for the end.
    pub fn act(&mut self, act: &[&str]) -> Outcome {
        self.begin(act);
        self.finish()
    }

    /// Whether the act that was begun has ended.
    pub fn has_finished(&self) -> bool {
        !self.line.is_empty() || readable(self.output.as_fd(), std::time::Duration::ZERO)
    }

    /// Waits until the agent is stopped.
    pub fn wait_until_stopped(&self) {
        wait_until("the agent is stopped", || (process_state(self.pid()) == Some('T')).then_some(()));
    }

    /// Kills it, and waits for its end.
    pub fn kill(&mut self) {
        // Ended already, if this fails.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.kill();
    }
}
