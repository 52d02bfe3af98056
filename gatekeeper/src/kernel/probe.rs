//! Can this host enforce? Each requirement with what was found and, where it fails, what to do.

use std::{fs, path::Path};

use super::{Limits, btf, trial};

/// One requirement.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// What is required.
    pub name: &'static str,
    /// Whether it is fulfilled.
    pub ok: bool,
    /// What was found.
    pub found: String,
    /// What to do, if it is not fulfilled.
    pub advice: Option<String>,
}

fn finding(name: &'static str, result: Result<String, (String, String)>) -> Finding {
    match result {
        Ok(found) => Finding { name, ok: true, found, advice: None },
        Err((found, advice)) => Finding { name, ok: false, found, advice: Some(advice) },
    }
}

/// Looks at everything, and tries it. Needs root for most; says so where it lacks it.
pub fn probe(limits: &Limits, cgroup_root: Result<&Path, String>, bpf_directory: &Path) -> Vec<Finding> {
    let mut findings = vec![
        finding("kernel version", version()),
        finding("kernel type information", types()),
        finding("security modules", modules()),
        finding("capabilities", capabilities()),
        finding("cgroup version 2", cgroup(cgroup_root.clone())),
        finding("BPF file system", bpf_file_system(bpf_directory)),
        finding("function tracing", tracing()),
    ];
    let result = match cgroup_root {
        Ok(root) => trial::run_alone(limits, root, &std::env::temp_dir()).map_err(|err| {
            // Its own message sends people here.
            let mut text = match &err {
                trial::TrialError::Kernel(super::KernelError::Program(name, _)) => format!("cannot attach `{name}`"),
                err => err.to_string(),
            };
            let mut source = std::error::Error::source(&err);
            if matches!(err, trial::TrialError::Kernel(_)) {
                source = source.filter(|source| source.to_string() != err.to_string());
            }
            while let Some(err) = source {
                text = format!("{text}: {err}");
                source = err.source();
            }
            for_operators(&text).to_owned()
        }),
        Err(_) => Err("not tried: there is no cgroup to try it in".to_owned()),
    };
    let broken = findings.iter().any(|finding| !finding.ok);
    findings.push(finding(
        "trial: load, hold and deny",
        result.map(|()| "an action was held and then denied".to_owned()).map_err(|found| {
            let advice = if broken {
                "see above"
            } else {
                "this host refuses what its kernel could do: a container, a lockdown or a virtual machine's policy; run \
                 gatekeeper on the host itself"
            };
            (found, advice.to_owned())
        }),
    ));
    findings
}

/// Without the verifier's log, which is for developers.
fn for_operators(error: &str) -> &str {
    let line = error.lines().next().unwrap_or_default();
    line.split_once(". Verifier output:").map_or(line, |(before, _)| before)
}

fn version() -> Result<String, (String, String)> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version >= (6, 1) { Ok(release) } else { Err((release, "boot Linux 6.1 or newer".to_owned())) }
}

fn types() -> Result<String, (String, String)> {
    btf::kernel_layout()
        .map(|_| "all fields found".to_owned())
        .map_err(|err| (err.to_string(), "boot a kernel with CONFIG_DEBUG_INFO_BTF=y".to_owned()))
}

fn modules() -> Result<String, (String, String)> {
    let path = "/sys/kernel/security/lsm";
    let active = match fs::read_to_string(path) {
        Ok(active) => active,
        Err(err) => {
            let advice = "mount -t securityfs securityfs /sys/kernel/security; the trial below decides".to_owned();
            return Err((format!("cannot read {path}: {err}"), advice));
        }
    };
    if active.trim().split(',').any(|module| module == "bpf") {
        Ok(active.trim().to_owned())
    } else {
        let advice = format!(
            "add `lsm={}` to the kernel's command line (in /etc/default/grub, then update-grub) and boot again",
            trial::wanted_modules()
        );
        Err((active.trim().to_owned(), advice))
    }
}

fn capabilities() -> Result<String, (String, String)> {
    /// CAP_SYS_ADMIN, CAP_SYS_RESOURCE, CAP_SYS_PTRACE, CAP_KILL, CAP_DAC_READ_SEARCH, CAP_PERFMON, CAP_BPF.
    const WANTED: [(u32, &str); 7] = [
        (21, "CAP_SYS_ADMIN"),
        (24, "CAP_SYS_RESOURCE"),
        (19, "CAP_SYS_PTRACE"),
        (5, "CAP_KILL"),
        (2, "CAP_DAC_READ_SEARCH"),
        (38, "CAP_PERFMON"),
        (39, "CAP_BPF"),
    ];
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .unwrap_or(0);
    let missing: Vec<_> = WANTED.iter().filter(|(bit, _)| effective >> bit & 1 == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        Ok("all there".to_owned())
    } else {
        Err((format!("missing {}", missing.join(", ")), "run as root, outside of containers that drop them".to_owned()))
    }
}

fn cgroup(root: Result<&Path, String>) -> Result<String, (String, String)> {
    match root {
        Ok(root) => Ok(root.display().to_string()),
        Err(found) => Err((found, "mount -t cgroup2 cgroup2 /sys/fs/cgroup".to_owned())),
    }
}

fn bpf_file_system(directory: &Path) -> Result<String, (String, String)> {
    /// `BPF_FS_MAGIC`, from `include/uapi/linux/magic.h`.
    const MAGIC: u64 = 0xcafe_4a11;
    let existing = directory.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statfs(existing) {
        Ok(stat) if stat.f_type as u64 == MAGIC => Ok(existing.display().to_string()),
        Ok(_) => Err((
            format!("{} is on another file system", directory.display()),
            "mount -t bpf bpf /sys/fs/bpf".to_owned(),
        )),
        Err(err) => Err((format!("{}: {err}", existing.display()), "mount -t bpf bpf /sys/fs/bpf".to_owned())),
    }
}

/// With `kernel.ftrace_enabled=0` attached LSM programs are not called, silently.
fn tracing() -> Result<String, (String, String)> {
    match fs::read_to_string(trial::FTRACE) {
        Ok(value) if value.trim() == "0" => {
            Err(("kernel.ftrace_enabled is 0".to_owned(), "sysctl kernel.ftrace_enabled=1".to_owned()))
        }
        Ok(_) => Ok("kernel.ftrace_enabled is 1".to_owned()),
        Err(_) => Ok("this kernel cannot switch it off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_log_is_left_out() {
        let refused = "cannot attach `file_open`: BPF_PROG_LOAD returned EPERM. Verifier output: : EPERM";
        assert_eq!(for_operators(refused), "cannot attach `file_open`: BPF_PROG_LOAD returned EPERM");
        assert_eq!(for_operators("cannot make a cgroup: EROFS\n0: R1=ctx()"), "cannot make a cgroup: EROFS");
    }
}
