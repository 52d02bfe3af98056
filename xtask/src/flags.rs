//! The command line of `cargo xtask`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Everything a developer of gatekeeper runs.
///
/// Each subcommand sets up what it needs by itself: programs, a BPF toolchain and kernels come from the distribution,
/// tools are built below `target/xtask`.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    max_term_width = 100,
    after_help = "\
Examples:
  cargo xtask demo                            see what gatekeeper does
  cargo xtask test                            all tests, on all kernels
  cargo xtask vm -- bash                      look around in a VM where gatekeeper can enforce
  cargo xtask vm --kernel 6.1 -- uname -r     run one command there
  cargo xtask check                           what has to pass before a change goes in"
)]
pub(crate) struct Flags {
    #[command(subcommand)]
    pub(crate) subcommand: Subcommands,
}

/// What can be asked for.
#[derive(Debug, Subcommand)]
pub(crate) enum Subcommands {
    Setup(SetupFlags),
    Build(BuildFlags),
    Vm(VmFlags),
    Test(TestFlags),
    Check(CheckFlags),
    Demo(DemoFlags),
    Bench(BenchFlags),
}

/// Find or install what the other subcommands need.
///
/// Silent and quick when all is there. Everything downloaded or built goes below `target/xtask`; distribution packages
/// are installed with apt-get, by root or through sudo.
#[derive(Debug, Args)]
#[command(after_help = "\
To use what you have instead, point at it:
  GATEKEEPER_BPF_RUSTC=PATH    a rustc with core for bpfel-unknown-none in its sysroot
  GATEKEEPER_BPF_LINKER=PATH   a bpf-linker whose LLVM is not older than that rustc's
  GATEKEEPER_KERNEL_6_1=PATH   a kernel image, an unpacked kernel package or a .deb
  GATEKEEPER_KERNEL_6_12=PATH  the same for 6.12
  GATEKEEPER_SYNAPSE_PYTHON=PATH  a Python that has the package matrix-synapse

Examples:
  cargo xtask setup
  GATEKEEPER_KERNEL_6_1=~/linux-6.1/arch/x86/boot/bzImage cargo xtask setup")]
pub(crate) struct SetupFlags {}

/// Build the BPF programs, the daemon and the test programs.
///
/// The test VM, the tests and the demo run what this builds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask build              both, optimised: what the VM and the tests run
  cargo xtask build --bpf-only   the BPF object alone, at target/xtask/bpf/gatekeeper-ebpf")]
pub(crate) struct BuildFlags {
    /// Build optimised programs; this is the default and the only profile, since it is what users run.
    #[arg(long)]
    pub(crate) release: bool,
    /// Build the BPF object alone.
    #[arg(long)]
    pub(crate) bpf_only: bool,
}

/// Run a command as root in a VM with a kernel that can enforce.
///
/// The guest has this machine's user land: the root file system read-only below, writes in memory above. The built
/// programs come first in PATH, the checkout is at its own path and the working directory is yours. Standard input,
/// output and error are passed through: what is a terminal here is one there. The exit status is the command's;
/// 125 means that the VM failed: a kernel panic, a hang, or no BPF in the guest's LSM list.
#[derive(Debug, Args)]
#[command(after_help = "\
With a terminal, Ctrl-] ends the VM, whatever state it is in; the exit status is then 130.

In the guest, PATH holds the built programs, then the system's directories, then the rest of yours. Of the environment
it sees TERM, the locale, CARGO_TARGET_DIR and GATEKEEPER_*; GATEKEEPER_VM_KERNEL holds the kernel's release.
GATEKEEPER_VM_ACCEL=kvm uses hardware virtualisation instead of emulation.

Examples:
  cargo xtask vm -- bash
  cargo xtask vm --kernel 6.1 -- python3 -c 'print(6*7)'
  cargo xtask vm --kernel ~/linux/arch/x86/boot/bzImage --append lsm=bpf -- gatekeeper check
  tar c tests | cargo xtask vm -- tar tv
  cargo xtask vm --icount -- true             guest time counts instructions")]
pub(crate) struct VmFlags {
    #[command(flatten)]
    pub(crate) machine: MachineFlags,
    /// Build nothing but PID 1 of the guest: what is in the target directory is used as it is.
    #[arg(long)]
    pub(crate) no_build: bool,
    /// What to run, with its arguments.
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// The machine to emulate.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineFlags {
    /// The guest's kernel: 6.1, 6.12, or the path of an image, an unpacked kernel package or a .deb.
    #[arg(long, default_value = "6.12", value_name = "6.1|6.12|PATH")]
    pub(crate) kernel: String,
    /// Processors of the guest.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) smp: u32,
    /// Let guest time count instructions: repeatable measurements, on one processor.
    #[arg(long)]
    pub(crate) icount: bool,
    /// Memory of the guest; three quarters of it can hold files.
    #[arg(long, default_value_t = 2048, value_name = "MIB", value_parser = clap::value_parser!(u32).range(192..=1 << 20))]
    pub(crate) memory: u32,
    /// Give up when the command has not ended after this time.
    #[arg(long, default_value_t = 1800, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=604_800))]
    pub(crate) timeout: u64,
    /// More for the kernel's command line; can be given several times.
    #[arg(long, value_name = "ARGUMENTS", allow_hyphen_values = true)]
    pub(crate) append: Vec<String>,
    /// Keep what the guest's kernel said in this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) kernel_log: Option<PathBuf>,
}

/// Run all tests: on this machine, then inside one VM per kernel.
///
/// Ends with one line per suite and a sum. A suite that runs no test is a failure.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask test                              everything
  cargo xtask test --kernel 6.12                tests of this machine, then the scenarios on one kernel
  cargo xtask test --kernel 6.1 bind_is_held    only tests whose name has this in it")]
pub(crate) struct TestFlags {
    /// Run the scenarios on this kernel alone; can be given several times.
    #[arg(long, value_name = "6.1|6.12|PATH")]
    pub(crate) kernel: Vec<String>,
    /// Run the scenarios in the VM alone.
    #[arg(long)]
    pub(crate) skip_host: bool,
    /// Only tests whose name contains this.
    pub(crate) filter: Option<String>,
}

/// Check format, lints, documentation, licences and house rules.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask check               all of it
  cargo xtask check fmt tidy      only these")]
pub(crate) struct CheckFlags {
    /// What to check; everything without it.
    #[arg(value_enum)]
    pub(crate) only: Vec<crate::check::Part>,
}

/// Play the main job with real programs and a real kernel.
///
/// Runs on this machine's kernel where that can enforce, else in a VM, and says which. With a terminal you are the
/// reviewer.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask demo
  cargo xtask demo --kernel 6.1        always in a VM, with this kernel
  cargo xtask demo --channel matrix    decided in a room of a real Matrix server
  cargo xtask demo < /dev/null         the demo decides by itself")]
pub(crate) struct DemoFlags {
    /// Use a VM with this kernel.
    #[arg(long, value_name = "6.1|6.12|PATH")]
    pub(crate) kernel: Option<String>,
    /// Ask through this channel instead of the terminal.
    #[arg(long, value_enum, value_name = "CHANNEL")]
    pub(crate) channel: Option<DemoChannel>,
    /// Arguments for the demo itself.
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<OsString>,
}

/// Where the demo asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DemoChannel {
    /// A real Matrix server (Synapse), started for the demo.
    Matrix,
}

/// Measure in guest instructions, in a VM where these can be counted, then how long people wait, in one with a clock.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask bench
  cargo xtask bench --latency                 only how long people wait
  cargo xtask bench --json --kernel 6.1 > before.json")]
pub(crate) struct BenchFlags {
    /// The guest's kernel.
    #[arg(long, default_value = "6.12", value_name = "6.1|6.12|PATH")]
    pub(crate) kernel: String,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Measure only how long people wait.
    #[arg(long, conflicts_with = "arguments")]
    pub(crate) latency: bool,
    /// Arguments for the benchmark program itself.
    #[arg(last = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<OsString>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(words: &[&str]) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(std::iter::once("cargo xtask").chain(words.iter().copied()))
    }

    #[test]
    fn the_definition_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn flags_of_the_command_are_not_ours() {
        let flags = parse(&["vm", "--kernel", "6.1", "--smp", "4", "--", "sh", "-c", "exit 7", "--icount"]).unwrap();
        let Subcommands::Vm(vm) = flags.subcommand else { panic!("not vm") };
        assert_eq!((vm.machine.kernel.as_str(), vm.machine.smp, vm.machine.icount), ("6.1", 4, false));
        assert_eq!(vm.command, ["sh", "-c", "exit 7", "--icount"]);
    }

    #[test]
    fn a_vm_without_a_command_or_with_nonsense_is_refused() {
        for words in [&["vm"][..], &["vm", "--smp", "0", "--", "true"], &["vm", "--timeout", "x", "--", "true"]] {
            assert!(parse(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn kernel_arguments_may_start_with_a_hyphen() {
        let flags = parse(&["vm", "--append", "-x", "--append", "lsm=bpf", "--", "true"]).unwrap();
        let Subcommands::Vm(vm) = flags.subcommand else { panic!("not vm") };
        assert_eq!(vm.machine.append, ["-x", "lsm=bpf"]);
    }

    #[test]
    fn every_subcommand_shows_examples() {
        for subcommand in Flags::command().get_subcommands() {
            let help = subcommand.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Examples:"), "{} has no examples", subcommand.get_name());
        }
    }
}
